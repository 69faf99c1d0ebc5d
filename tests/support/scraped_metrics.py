"""The metrics of `GET /metrics`, parsed by Prometheus' own parser."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


class ScrapedMetrics:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all samples with that name and those labels, or 0."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"depot_{name}" and labels.items() <= sample.labels.items()
        )

    def values(self, label: str) -> set[str]:
        return {sample.labels[label] for sample in self.samples if label in sample.labels}


async def scraped(client: httpx.AsyncClient) -> ScrapedMetrics:
    reply = await client.get("/metrics")
    assert reply.status_code == 200, reply.text
    return ScrapedMetrics(reply.text)
