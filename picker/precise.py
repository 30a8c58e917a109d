"""Precise: what the endpoints of one pool have cached, as their own events say, and how far that is believed.

An endpoint is `precise` while its events come without a gap and what they said agrees with the cached tokens that it reports; else
prefixes are known from where requests went, as in a pool without events. Both are always learned, so either may take over.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from picker.facts import Decision, Outcome
from picker.kv_blocks import ROOT, HeldBlocks, chain
from picker.kv_links import Links, Rendered, links, text_ends, token_ends
from picker.kv_messages import Batch, Cleared, Malformed, Removed, Stored, decode, extra_of
from picker.prefix import BLOCK_TOKENS, MAX_BLOCKS, PrefixIndex, longest, tokens_in
from picker.recent import Recent
from picker.request import InferenceRequest

SPECULATIVE = 2.0  # seconds that an endpoint may take until its events tell what it was sent
BELIEVED = 0.5  # trust from which on an endpoint is precise
_LATE = 0.25  # trust in an endpoint that was heard of when it had a past: it may hold what nobody told of
_STEP = 0.2  # of trust, for each request that ended
_FULL = 0.9  # of its blocks are known: what the rest is does not matter much
_SILENT = 2  # requests in a row that should have been told of
_OPEN = 1 << 18  # blocks of requests whose predictions are remembered until they end: 20 MB
_SIZES = 4
_ADAPTERS = 1_000
_MOST = 10_000  # blocks that cannot be linked

Mode = Literal["precise", "approximate"]
Wanted = Literal["", "new", "again"]  # a tokenizer's answer: no, if nobody else waits for one, yes


@dataclass(slots=True)
class Feed:
    """The events of one endpoint. `now` and other times are time.monotonic() values."""

    trust: float = 0.0
    sequence: int | None = None  # of the last batch
    heard: float = float("-inf")
    joined: bool = False  # the last batch followed on the one before, and the connection stands
    block_tokens: int = 0
    group: int | None = None  # of layers: the one that is followed
    grouped: bool = False
    silent: int = 0
    blocks: int = 0  # that the server can hold; 0 if unknown
    events: int = 0
    gaps: int = 0
    malformed: int = 0

    @property
    def mode(self) -> Mode:
        return "precise" if self.joined and self.trust >= BELIEVED else "approximate"


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the events promised for one request, in blocks of bytes."""

    endpoint: str
    least: int
    most: int | None  # None: nothing was promised
    tokens: int  # of the whole prompt, as we estimate them
    hashes: Sequence[int] = field(repr=False)
    now: float


@dataclass(frozen=True, slots=True)
class Unlinked:
    """A prompt that is not linked: a tokenizer is to be asked."""

    pool: str
    model: str  # as the server is asked
    request: InferenceRequest
    hashes: Sequence[int] = field(repr=False)
    wanted: Wanted = "again"


class Precise:
    """For one pool. Endpoints are "ip:port"."""

    def __init__(self, prefixes: PrefixIndex) -> None:
        """`prefixes` is what is known of where requests went."""
        self.feeds: dict[str, Feed] = {}
        self.held = HeldBlocks()
        self.links: dict[int, Links] = {}  # by the tokens of a block: engines may differ
        self.adapters: set[str] = set()  # models whose blocks are theirs alone
        self._prefixes = prefixes
        self._recent = Recent(SPECULATIVE)
        self._expected: OrderedDict[str, _Expected] = OrderedDict()
        self._open = 0  # blocks of those
        self._believed: dict[int, frozenset[str]] = {}  # see _precise; emptied when any feed changes
        self._in_vain: OrderedDict[int, None] = OrderedDict()  # blocks that were not found in what a tokenizer said

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        self._believed.clear()
        for gone in [name for name in self.feeds if name not in endpoints]:
            del self.feeds[gone]
        self.held.retain(endpoints)
        self._recent.retain(endpoints)
        sizes = {feed.block_tokens for feed in self.feeds.values()}
        for size in [one for one in self.links if one not in sizes and self.feeds]:
            del self.links[size]

    # --- what servers say -------------------------------------------------------------------------------------------------

    def received(self, endpoint: str, frames: Sequence[bytes], now: float) -> None:
        """One message of the endpoint's publisher; one that cannot be read is a gap."""
        self._believed.clear()
        feed = self._feed(endpoint)
        try:
            batch = decode(frames)
        except Malformed:
            feed.malformed += 1
            if len(frames) > 1 and len(frames[1]) == 8:
                feed.sequence = int.from_bytes(frames[1], "big")
            self._lost(endpoint, feed)
            return
        self.apply(endpoint, batch, now)

    def apply(self, endpoint: str, batch: Batch, now: float) -> None:
        """The next batch of events of the endpoint."""
        self._believed.clear()
        feed = self._feed(endpoint)
        if feed.sequence is None or batch.sequence == 0:  # we are new, or its process is
            if feed.sequence is not None:
                self.held.clear(endpoint)
                self._forget(endpoint)
                feed.block_tokens, feed.grouped = 0, False
            feed.trust = _LATE if batch.sequence else 1.0
        elif batch.sequence != feed.sequence + 1:
            feed.gaps += 1
            self._lost(endpoint, feed)
        feed.sequence, feed.heard, feed.joined, feed.silent = batch.sequence, now, True, 0
        feed.events += len(batch.events)
        for event in batch.events:
            self._event(endpoint, feed, event)
        if feed.trust < BELIEVED and feed.blocks and self.held.count(endpoint) >= _FULL * feed.blocks:
            feed.trust = BELIEVED

    def disconnected(self, endpoint: str) -> None:
        """Nothing comes from there for now. The next batch tells whether anything was missed."""
        if endpoint in self.feeds:
            self.feeds[endpoint].joined = False
            self._believed.clear()

    def resize(self, endpoint: str, blocks: int) -> None:
        """The server says how many blocks its cache has; 0 means that it does not say."""
        if endpoint in self.feeds:
            self.feeds[endpoint].blocks = blocks

    def _feed(self, endpoint: str) -> Feed:
        found = self.feeds.get(endpoint)
        if found is None:
            found = self.feeds[endpoint] = Feed()
        return found

    def _lost(self, endpoint: str, feed: Feed) -> None:
        """Something was missed: what was held may be gone, and what goes may never have been told of."""
        feed.trust, feed.joined = 0.0, False
        self.held.clear(endpoint)

    def _forget(self, endpoint: str) -> None:
        """Whatever was sent there is gone."""
        self._prefixes.forget(endpoint)
        self._recent.forget(endpoint)

    def _event(self, endpoint: str, feed: Feed, event: Stored | Removed | Cleared) -> None:
        match event:
            case Stored():
                if not feed.grouped:
                    feed.group, feed.grouped = event.group, True
                if event.group == feed.group and self._sized(feed, event.block_tokens):
                    if event.lora and len(self.adapters) < _ADAPTERS:
                        self.adapters.add(event.lora)
                    self.held.stored(endpoint, event)
            case Removed():
                if event.group == feed.group:
                    self.held.removed(endpoint, event.hashes)
            case Cleared():
                self.held.clear(endpoint)
                self._forget(endpoint)
                feed.trust = 1.0  # all that it holds from now on will be told

    def _sized(self, feed: Feed, block_tokens: int) -> bool:
        """An engine has blocks of one size, and the engines of a pool of few sizes: each costs every decision a little."""
        if not feed.block_tokens and (block_tokens in self.links or len(self.links) < _SIZES):
            feed.block_tokens = block_tokens
            self.links.setdefault(block_tokens, Links())
        return feed.block_tokens == block_tokens

    # --- what a decision asks ---------------------------------------------------------------------------------------------

    def match(self, hashes: Sequence[int], sent: Mapping[str, int], now: float) -> dict[str, int]:
        """How many blocks of bytes each endpoint has cached; `sent` is what PrefixIndex says. Absent: none."""
        found = dict(sent)
        for size, table in self.links.items():
            if not (linked := table.count(hashes)):
                continue
            held = longest(self._holders(table), hashes, self.held.names)
            covered = {blocks: _covered(table, hashes, blocks) for blocks in {0, *held.values()}}
            for endpoint in self._precise(size) & (held.keys() | sent.keys()):  # all others have nothing
                blocks = held.get(endpoint, 0)
                if blocks == linked:  # nothing is missing as far as we can see; of the rest we know where it went
                    found[endpoint] = max(covered[blocks], sent.get(endpoint, 0))
                else:  # it does not have all that was sent there, but may be at it
                    found[endpoint] = self._recent.count(endpoint, hashes, covered[blocks], now)
        return found

    def _precise(self, size: int) -> frozenset[str]:
        """The endpoints that are believed, of those with blocks of this size."""
        found = self._believed.get(size)
        if found is None:
            feeds = self.feeds.items()
            found = frozenset(name for name, feed in feeds if feed.block_tokens == size and feed.mode == "precise")
            self._believed[size] = found
        return found

    def _holders(self, table: Links) -> Callable[[int], int]:
        get, masks = table.get, self.held.masks

        def holders(block: int) -> int:
            link = get(block)
            return 0 if link is None else masks.get(link[0], 0)

        return holders

    def decided(self, decision: Decision, hashes: Sequence[int], now: float) -> None:
        """Remember what the events promise for this request, so that its end can tell whether they are right."""
        endpoint = decision.endpoints[0]
        expected = self._expect(endpoint, hashes, decision.prompt_tokens, now)
        self._expected[decision.id] = expected
        self._open += len(hashes)
        while self._open > _OPEN:
            self._open -= len(self._expected.popitem(last=False)[1].hashes)
        self._recent.add(endpoint, hashes[expected.least :], now)

    def _expect(self, endpoint: str, hashes: Sequence[int], tokens: int, now: float) -> _Expected:
        feed = self.feeds.get(endpoint)
        table = self.links.get(feed.block_tokens) if feed else None
        if table is None or not (linked := table.count(hashes)):
            return _Expected(endpoint, 0, None, tokens, hashes, now)
        bit, holders = self.held.bit(endpoint), self._holders(table)
        held = longest(lambda block: holders(block) & bit, hashes, self.held.names).get(endpoint, 0)
        least = _covered(table, hashes, held)
        busy = held == linked or self._recent.count(endpoint, hashes, least, now) > least
        return _Expected(endpoint, least, len(hashes) if busy else least + 1, tokens, hashes, now)

    def wants(self, hashes: Sequence[int], sent: Mapping[str, int]) -> Wanted:
        """Whether a tokenizer should be asked: for a prompt that begins as one did before, and one that does if there is time."""
        again = max(sent.values(), default=0)
        if (
            again
            and hashes[again - 1] not in self._in_vain
            and any(t.count(hashes) < again for t in self.links.values())
        ):
            return "again"
        new = any(
            4 * table.count(hashes) <= 3 * len(hashes) for table in self.links.values()
        )  # a little more teaches little
        return "new" if new and hashes[-1] not in self._in_vain else ""

    # --- what is learned --------------------------------------------------------------------------------------------------

    def ended(self, outcome: Outcome) -> None:
        """A request ended. What the server had cached should be what its events said."""
        expected = self._expected.pop(outcome.id, None)
        if expected is None:
            return
        self._open -= len(expected.hashes)
        self._recent.settle(expected.endpoint, expected.hashes, expected.now)  # events have told by now
        feed = self.feeds.get(expected.endpoint)
        most = expected.most
        if feed is None or most is None or outcome.reason or outcome.endpoint != expected.endpoint:
            return
        cached, tokens = outcome.cached_tokens, outcome.input_tokens
        if outcome.attempts > 1 or cached is None or not tokens:
            return
        if tokens - cached >= 2 * feed.block_tokens > 0 and feed.heard < expected.now:
            feed.silent += 1
            if feed.silent == _SILENT:  # it has stored blocks and told nobody
                self._lost(expected.endpoint, feed)
                self._believed.clear()
            return
        self._believed.clear()
        had, least = cached / tokens * expected.tokens, tokens_in(expected.least)
        slack = tokens_in(min(expected.least + 1, MAX_BLOCKS)) - least + feed.block_tokens
        wrong = max(least - slack - had, had - slack - tokens_in(min(most, MAX_BLOCKS)), 0.0)
        agreed = 1.0 - min(wrong / max(least, had, float(BLOCK_TOKENS)), 1.0)
        feed.trust += _STEP * (agreed - feed.trust)

    def link(self, asked: Unlinked, tokens: bytes, rendered: Rendered | None) -> int:
        """A tokenizer has answered: tokens of 4 bytes each, and the text that they are; None where the prompt itself is token ids.

        Gives the number of blocks of bytes that are linked now.
        """
        prompt, salt = asked.request.prompt, asked.request.cache_salt
        names = (asked.model, asked.model.partition(":")[2])  # SGLang: base:adapter
        adapter = [name for name in names if name in self.adapters][:1]
        sizes = {size: table for size, table in self.links.items() if rendered is None or size % rendered.step == 0}
        linked = 0
        for size, table in sizes.items():
            count = len(tokens) // (size * 4)
            first = extra_of([*adapter, salt] if salt else adapter)
            extra = [first] + [extra_of(adapter)] * count if first else []
            keys = chain(ROOT, tokens, size, extra)
            ends = token_ends(len(tokens) // 4, size) if rendered is None else text_ends(prompt, rendered, size)
            ends = [end for end in ends if end <= len(prompt)]
            found = links(len(asked.hashes), keys, ends)
            table.add(asked.hashes, found)
            linked = max(linked, len(found))
        if len(sizes) == len(self.links):  # else one has come since it was asked, and asks again
            self._in_vain.update(dict.fromkeys(asked.hashes[linked:]))
        while len(self._in_vain) > _MOST:
            self._in_vain.popitem(last=False)
        return linked


def _covered(table: Links, hashes: Sequence[int], held: int) -> int:
    """Blocks of bytes that an endpoint has cached which holds what the first `held` are linked to."""
    link = table.get(hashes[held - 1]) if held else None
    return link[1] if link else 0
