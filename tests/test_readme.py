"""The README's console session, executed: what it shows is what happens."""

import asyncio
import re
import subprocess
from pathlib import Path

from service.settings import PREFIX, UNPREFIXED, Settings
from tests.support.depot_process import depot_serve

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
VOLATILE = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
]


def session() -> list[tuple[str, str]]:
    """The commands of the README's console block, each with the reply it shows."""
    block = re.search(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    steps = re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]
    return [(command, reply) for command, _, reply in (step.partition("\n") for step in steps)]


def stable(text: str) -> str:
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text.strip()


async def test_the_session_of_the_readme_is_true(database_url: str, key: str, home: Path) -> None:
    (home / ".depot").mkdir()
    (home / ".depot" / "api-key").write_text(key)
    with depot_serve(database_url, home / ".depot") as server:
        script = "".join(f"{command}\nprintf '\\n--\\n'\n" for command, _ in session())
        script = script.replace("localhost:8000", server.url.removeprefix("http://"))
        output = await asyncio.to_thread(subprocess.check_output, ["bash", "-c", script], cwd=home, text=True)
    replies = output.split("\n--\n")
    for (command, shown), reply in zip(session(), replies, strict=False):
        assert stable(reply) == stable(shown), command


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(DEPOT_\w+)` \| ([^|]+) \|", CONFIGURATION.read_text(), re.MULTILINE))
    names = {PREFIX + name.upper() for name in Settings.__struct_fields__ if name not in UNPREFIXED}
    assert set(table) == names
    defaults = Settings()
    for name, shown in table.items():
        value = getattr(defaults, name.removeprefix(PREFIX).lower())
        if isinstance(value, int | float):
            assert float(shown.split(",")[0]) == value, name
