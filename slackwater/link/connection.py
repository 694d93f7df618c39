"""The life of a link's stream: dialling with backoff, heartbeats, silence."""

from collections.abc import Callable

from slackwater.link.settings import SenderSettings, Stream


class Connection:
    """How far the stream has come, and when something is due.

    Attributes:
        stream: CLOSED -> DIALLING -> GREETING -> PLACING -> OPEN, and back to CLOSED from each.
        now: The latest monotonic time seen.
        time_ns: The latest wall clock seen.
    """

    def __init__(self, settings: SenderSettings, jitter: Callable[[], float]) -> None:
        """Start closed, to be dialled at once."""
        self.stream = Stream.CLOSED
        self.now = 0.0
        self.time_ns = 0
        self._settings = settings
        self._jitter = jitter
        self._attempts = 0
        self._dial_at = 0.0
        self._heard_at = 0.0
        self._beat_at = 0.0

    def advance(self, now: float, time_ns: int) -> None:
        """Let time pass."""
        assert now >= self.now, "a monotonic clock never goes back"
        self.now, self.time_ns = now, time_ns

    @property
    def is_dial_due(self) -> bool:
        """Whether it is time to dial."""
        return self.stream is Stream.CLOSED and self.now >= self._dial_at

    @property
    def is_beat_due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return self.stream in (Stream.PLACING, Stream.OPEN) and self.now >= self._beat_at

    @property
    def silence(self) -> str:
        """Why the peer counts as dead, or nothing."""
        if self.stream is Stream.CLOSED:
            return ""
        limit = self._settings.silence_seconds
        if self.stream in (Stream.DIALLING, Stream.GREETING):
            limit = self._settings.greeting_seconds
        return f"no sign of life for {limit:g} s" if self.now - self._heard_at > limit else ""

    def dial(self) -> None:
        """The stream is being opened."""
        self.stream = Stream.DIALLING
        self._heard_at = self.now

    def greet(self) -> None:
        """The stream is open and Hello is sent."""
        self.stream = Stream.GREETING
        self._heard_at = self.now

    def heard(self) -> None:
        """The peer lives."""
        self._heard_at = self.now

    def welcomed(self) -> None:
        """The peer took Hello: the next failure is the first again."""
        self.stream = Stream.PLACING
        self._attempts = 0

    def beaten(self) -> None:
        """A heartbeat was sent."""
        self._beat_at = self.now + self._settings.heartbeat_seconds

    def close(self) -> None:
        """The stream is gone; plan the next attempt, later each time."""
        s = self._settings
        backoff = min(s.backoff_max_seconds, s.backoff_seconds * 2 ** min(self._attempts, 16))
        self._attempts += 1
        self._dial_at = self.now + backoff * (0.5 + self._jitter() / 2)
        self.stream = Stream.CLOSED

    def hurry(self) -> None:
        """Dial at the next tick."""
        self._attempts, self._dial_at = 0, self.now
