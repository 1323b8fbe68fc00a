"""A wire between client and server that can be cut: real bytes to the real server, over one loopback port more."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Wire:
    """Forwards connections to (host, port) at `address`. `cut()` drops those there are and refuses new ones, `mute()`
    lets them wait without an answer, `mend()` forwards again."""

    def __init__(self, port: int) -> None:
        self.target, self.state, self.open = ("127.0.0.1", port), "whole", []
        self.listener = self._listen(0)
        self.port = self.listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._serve(self.listener)

    def cut(self) -> None:
        self.state = "cut"
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes what waits for connections; to close it would not
        self.listener.close()
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def mute(self) -> None:
        self.state = "mute"

    def mend(self) -> None:
        if self.state == "cut":
            self.listener = self._listen(self.port)
            self._serve(self.listener)
        self.state = "whole"

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return listener

    def _serve(self, listener: socket.socket) -> None:
        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection(self.target)
                self.open += [client, server]
                threading.Thread(target=self._pipe, args=(client, server), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _pipe(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError, ValueError):
            while True:
                for ready in select.select([client, server], [], [], 0.05)[0]:
                    if self.state == "mute":
                        continue
                    data = ready.recv(2**16)
                    if not data:
                        return
                    (server if ready is client else client).sendall(data)
