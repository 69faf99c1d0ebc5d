"""JSON Merge Patch, RFC 7396."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.merge import merge_patch

APPENDIX_A = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

LEAVES = st.booleans() | st.integers() | st.text(max_size=3)
NAMES = st.sampled_from("abc")
WITHOUT_NULL: st.SearchStrategy[Any] = st.recursive(
    LEAVES | st.lists(LEAVES, max_size=2),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
ANY: st.SearchStrategy[Any] = st.recursive(
    LEAVES | st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2)
)


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX_A)
def test_the_examples_of_the_rfc_hold(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(ANY, ANY)
def test_each_name_of_the_patch_is_removed_or_merged_and_the_others_stay(target: Any, patch: Any) -> None:
    before = deepcopy((target, patch))
    result = merge_patch(target, patch)
    assert (target, patch) == before
    if not isinstance(patch, dict):
        assert result == patch
        return
    old = target if isinstance(target, dict) else {}
    names = {name for name in old.keys() | patch.keys() if patch.get(name, ...) is not None}
    assert result.keys() == names
    for name in names:
        assert result[name] == (merge_patch(old.get(name), patch[name]) if name in patch else old[name])


@given(ANY, ANY)
def test_merging_twice_is_merging_once(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@given(WITHOUT_NULL, WITHOUT_NULL)
def test_any_document_becomes_any_other_by_their_difference(source: Any, target: Any) -> None:
    assert merge_patch(source, difference(source, target)) == target


def difference(source: Any, target: Any) -> Any:
    if not (isinstance(source, dict) and isinstance(target, dict)):
        return target
    removed = dict.fromkeys(source.keys() - target.keys())
    changed = {
        name: difference(source.get(name), value)
        for name, value in target.items()
        if name not in source or source[name] != value or type(source[name]) is not type(value)
    }
    return {**removed, **changed}
