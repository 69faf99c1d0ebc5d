"""Press every Execute of /docs in headless Chromium, and print what the API answers.

Run it beside `make run` with an empty database: .venv/bin/python .ci/api/execute.py [URL] [KEY_FILE]
It needs Debian's `chromium`. It exits with 1 if an operation is not sent or gets an unexpected refusal.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
from PIL import Image

CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
LAST = ("/resend", "/cancel", "/fulfil", "/fulfill", "/retry", "DELETE")
"""Operations that need something new, in the order in which they are tried."""
BEFORE = {
    "/orders/{order_id}/": ["POST /orders"],
    "/jobs/{job_id}/": ["POST /process"],
    "/webhooks/{webhook_id}/deliveries/": [
        "POST /webhooks/{webhook_id}/test",
        "GET /webhooks/{webhook_id}/deliveries",
    ],
}
"""What is executed again before them."""
REFUSED = {
    "GET /jobs/{job_id}/output": "404",  # the job of the example is an import
    "POST /jobs/{job_id}/cancel": "409",  # it may be over by then
    "DELETE /jobs/{job_id}": "409",
    "POST /jobs/{job_id}/retry": "409",  # it has not failed
    "DELETE /items/{item_id}": "409",  # the item was ordered
    "POST /webhooks/{webhook_id}/deliveries/{delivery_id}/resend": "409",  # nothing is at the example's URL
}
PREPARE = """
const sleep = () => new Promise(done => setTimeout(done, 20));
window.until = async (find, tries = 1500) => {
  for (let n = 0; n < tries; n++) { const found = find(); if (found) return found; await sleep(); }
};
window.type = (input, text) => {
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, text);
  input.dispatchEvent(new Event("input", {bubbles: true}));
};
window.press = async (find) => (await until(find)).click();
"""
AUTHORIZE = """(async key => {
  await press(() => document.querySelector(".auth-wrapper .btn.authorize"));
  type(await until(() => document.querySelector(".modal-ux input")), key);
  await sleep(); document.querySelector(".modal-ux .btn.authorize").click();
  await press(() => document.querySelector(".modal-ux .btn-done"));
})(%s)"""
OPERATIONS = """(async () => { await until(() => document.querySelector(".opblock"));
  return [...document.querySelectorAll(".opblock")].map(block => [block.id,
    block.querySelector(".opblock-summary-method").innerText,
    block.querySelector("[data-path]").dataset.path]); })()"""
OPEN = """(async block => { block.querySelector(".opblock-summary-control").click();
  await until(() => block.querySelector(".try-out__btn"));
  block.querySelector(".try-out__btn:not(.cancel)")?.click();
  await until(() => block.querySelector(".execute"));
  block.querySelector(".btn-clear")?.click(); })(document.getElementById(%s))"""
EXECUTE = """(async block => { block.querySelector(".execute").click();
  const reply = part => block.querySelector(".live-responses-table tbody .response-col_" + part)?.innerText;
  await until(() => reply("status") || block.querySelector("input.invalid, .validation-errors"));
  const outcome = [reply("status")?.trim() ?? "not sent", reply("description")?.slice(0, 900)].join(" ");
  block.querySelector(".opblock-summary-control").click();
  return outcome; })(document.getElementById(%s))"""


class Operation(NamedTuple):
    block: str
    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def rank(self) -> int:
        """Return -1 for one that creates, 0 for one that reads or changes, else its place among the LAST."""
        if self.method == "PUT":
            return -1
        return max(n * self.name.count(word) for n, word in enumerate(LAST, start=1))


class Page:
    """A page of the browser, by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count()

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(60):
            while (reply := await self._socket.receive_json()).get("id") != number:
                pass
        return dict(reply["result"])

    async def run(self, script: str) -> Any:
        reply = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(json.dumps(reply["exceptionDetails"]))
        return reply["result"].get("value")

    async def choose_file(self, block: str, path: Path) -> None:
        selector = f'document.getElementById({json.dumps(block)}).querySelector("input[type=file]")'
        found = (await self.send("Runtime.evaluate", expression=selector))["result"]
        if "objectId" in found:
            await self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])


@asynccontextmanager
async def browser(url: str, folder: Path) -> AsyncIterator[Page]:
    """Yield a page at `url`, in which the functions of PREPARE exist."""
    command = [*CHROMIUM, f"--user-data-dir={folder}"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    port_file = folder / "DevToolsActivePort"
    try:
        while not (port_file.exists() and "\n" in port_file.read_text()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        devtools = f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{devtools}/json/new?about:blank") as reply:
                target = await reply.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.send("Page.enable")
                await page.send("Page.addScriptToEvaluateOnNewDocument", source=PREPARE)
                await page.send("Page.navigate", url=url)
                yield page
    finally:
        process.terminate()
        await process.wait()


async def execute(page: Page, operation: Operation, picture: Path) -> str:
    """Return the status of the reply and, of a refusal, its body."""
    block = json.dumps(operation.block)
    await page.run(OPEN % block)
    await page.choose_file(operation.block, picture)
    return str(await page.run(EXECUTE % block))


async def execute_all(page: Page, key: str, picture: Path) -> int:
    """Return the number of operations that do not answer as they should."""
    blocks = [Operation(*block) for block in await page.run(OPERATIONS)]
    operations = [
        operation for operation in blocks if operation.path.startswith("/")
    ]  # the others are events
    await page.run(AUTHORIZE % json.dumps(key))
    by_name = {operation.name: operation for operation in operations}
    failures = 0
    for operation in sorted(operations, key=Operation.rank):
        for beginning, names in BEFORE.items():
            if operation.rank() > 0 and operation.path.startswith(beginning):
                for name in names:
                    await execute(page, by_name[name], picture)
        outcome = await execute(page, operation, picture)
        expected = outcome.startswith(("2", REFUSED.get(operation.name, "2")))
        print(f"{operation.name:64s}", outcome[:3] if expected else outcome, flush=True)
        failures += not expected
    print(f"{failures} of {len(operations)} operations failed")
    return failures


async def press_everything(url: str, key: str, folder: Path, picture: Path) -> int:
    async with browser(f"{url}/docs", folder) as page:
        return await execute_all(page, key, picture)


def main(url: str = "http://127.0.0.1:8000", key_file: str = ".depot/api-key") -> None:
    key = Path(key_file).read_text(encoding="utf-8").strip()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        picture = Path(folder) / "cat.png"
        Image.new("RGB", (64, 48)).save(picture)
        failures = asyncio.run(press_everything(url, key, Path(folder) / "profile", picture))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
