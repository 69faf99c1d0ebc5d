"""The application on a real socket, in a thread of the test's process."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from litestar import Litestar
from msgspec.structs import replace

from service.server.processes import Server, bind
from service.settings import Settings

HOST = "127.0.0.1"


class ThreadServer(Server):
    """A server that leaves signals and the garbage of its process to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def settle_garbage_collector(self) -> None:
        pass


@contextmanager
def serving(app: Litestar, settings: Settings) -> Iterator[str]:
    """Serve the application on a free port until the block ends. Yield its URL."""
    settings = replace(settings, host=HOST, port=0)
    started = Future[None]()
    server = ThreadServer(app, settings, on_started=lambda: started.set_result(None))
    with bind(settings) as listener, ThreadPoolExecutor(1, "depot-server") as thread:
        ended = thread.submit(server.run, sockets=[listener])
        wait([started, ended], return_when=FIRST_COMPLETED)
        try:
            if not ended.done():
                yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            ended.result()
