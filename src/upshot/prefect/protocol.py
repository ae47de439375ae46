"""uvicorn's WebSocket, but that an application may answer pings and the closing handshake itself.

To Prefect's client a pong acknowledges all that it sent before the ping. So the socket that takes
events must not have them answered before those events are stored.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol
from wsproto import events

HOLDS: Final = "upshot.holds"
"""A field of the `websocket.accept` of an application that answers pings and closing itself.

It then receives `{"type": "upshot.arrived", "messages": [...]}`: all that has arrived since it
last asked, among it `{"type": "websocket.ping", "bytes"}`, which it answers with `websocket.pong`.
A `websocket.disconnect` that came of a closing handshake is answered with `websocket.close`.
Whoever holds or not, `{"type": "upshot.abort"}` drops the connection and what was not sent yet.
"""


class SocketProtocol(WSProtocol):
    """A connection. It holds nothing unless its application says so when it accepts."""

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._holds = False
        self._asked_to_close: events.CloseConnection | None = None

    def handle_ping(self, event: events.Ping) -> None:
        if not self._holds:
            super().handle_ping(event)
            return
        self._put({"type": "websocket.ping", "bytes": bytes(event.payload)})
        # What waits is bounded: no more is read until the application has taken it.
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_close(self, event: events.CloseConnection) -> None:
        if not self._holds or self.close_sent:
            super().handle_close(event)
            return
        self._asked_to_close = event
        self._put({"type": "websocket.disconnect", "code": event.code, "reason": event.reason})

    async def send(self, message: Any) -> None:
        match message["type"]:
            case "websocket.accept":
                self._holds = bool(message.get(HOLDS))
            case "websocket.pong":
                if not (self.close_sent or self.transport.is_closing()):
                    self.transport.write(self.conn.send(events.Pong(payload=message["bytes"])))
                return
            case "upshot.abort":
                self.transport.abort()
                return
            case "websocket.close" if self._asked_to_close is not None:
                if not (self.close_sent or self.transport.is_closing()):
                    self.close_sent = True
                    self.transport.write(self.conn.send(self._asked_to_close.response()))
                    self.transport.close()
                return
        await super().send(message)

    async def receive(self) -> Any:
        message = await super().receive()
        if not self._holds:
            return message
        messages = [message]
        while not self.queue.empty():
            messages.append(await super().receive())
        return {"type": "upshot.arrived", "messages": messages}

    def _put(self, message: Mapping[str, Any]) -> None:
        self.queue.put_nowait(cast(Any, message))
