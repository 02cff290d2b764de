"""What is encoded comes back the same, for values nobody picked by hand."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.wire import codec
from hybrid.wire.body import open_body, pad, seal_body, unpad
from hybrid.wire.canonical import canonical_json, decode_canonical_json
from hybrid.wire.constants import DEADLINES_MS, MAX_IDENTIFIER_CHARS
from hybrid.wire.encoding import Reader, identifier, u8, u16, u32, u64, v1, v2, v4
from hybrid.wire.envelope import CandidateRef, Header
from hybrid.wire.evidence import Statement
from hybrid.wire.receipt import UsageReport
from hybrid.wire.types import Chunk, EngineTiming, FinishReason, GenerateRequest, Message, Role, Sampling, Usage
from tests.wire.support import EPOCH, REQUEST, read, reply_sealer, seal, statement, worker, write

quick = settings(max_examples=60, deadline=None)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
words = text.filter(lambda value: bool(value.strip()))
u32s = st.integers(0, 2**32 - 1)
identifiers = st.from_regex(rf"\A[A-Za-z0-9._/@:-]{{1,{MAX_IDENTIFIER_CHARS}}}\Z")


def exactly(count: int) -> st.SearchStrategy[bytes]:
    """Bytes of one length."""
    return st.binary(min_size=count, max_size=count)


requests = st.builds(
    GenerateRequest,
    messages=st.lists(st.builds(Message, role=st.sampled_from(Role), content=words), min_size=1, max_size=4).map(tuple),
    sampling=st.builds(
        Sampling,
        max_tokens=st.integers(1, 1_000_000),
        temperature=st.floats(0, 5),
        top_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.5, 2),
        seed=st.none() | st.integers(0, 2**63 - 1),
        stop=st.lists(words, max_size=3).map(tuple),
    ),
    cache_salt=st.just(b"") | st.binary(min_size=16, max_size=32),
)
params = st.dictionaries(text, text | st.integers(1 - 2**53, 2**53 - 1), max_size=5)
usages = st.builds(Usage, input=u32s, cached_input=u32s, output=u32s)


@quick
@given(requests)
def test_requests(request: GenerateRequest) -> None:
    assert codec.decode_request(codec.encode_request(request)) == request


@quick
@given(text, u32s, st.none() | st.tuples(st.integers(0, 9), st.integers(10, 2**32 - 1)))
def test_chunks(words: str, tokens: int, progress: tuple[int, int] | None) -> None:
    chunk = Chunk(text=words, tokens=tokens, progress=progress)
    assert codec.decode_chunk(codec.encode_chunk(chunk)) == chunk


@quick
@given(usages, st.sampled_from(FinishReason), params, st.integers(0, 10**6))
def test_usage_reports(usage: Usage, finish: FinishReason, applied: dict[str, str | int], ms: int) -> None:
    report = UsageReport(usage=usage, finish=finish, params=applied, timing=EngineTiming(queue_s=ms / 1000))
    assert codec.decode_usage(codec.encode_usage(report)) == report


def test_rates_follow_from_counts_and_times() -> None:
    usage = Usage(input=100, cached_input=60, output=30)
    timing = EngineTiming(queue_s=0.25, prefill_s=0.5, decode_s=2.0, prefill_tps=1e9, decode_tps=1e9)
    report = codec.decode_usage(codec.encode_usage(UsageReport(usage=usage, finish=FinishReason.STOP, timing=timing)))
    assert report.timing == EngineTiming(queue_s=0.25, prefill_s=0.5, decode_s=2.0, prefill_tps=80.0, decode_tps=15.0)


json_values: st.SearchStrategy[Any] = st.recursive(
    text | st.integers(1 - 2**53, 2**53 - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@quick
@given(json_values)
def test_canonical_json(value: Any) -> None:
    assert decode_canonical_json(canonical_json(value)) == value


@quick
@given(st.integers(0, 255), st.integers(0, 65_535), u32s, st.integers(0, 2**64 - 1), st.binary(max_size=255))
def test_numbers_and_prefixes(a: int, b: int, c: int, d: int, data: bytes) -> None:
    reader = Reader(u8(a) + u16(b) + u32(c) + u64(d) + v1(data) + v2(data) + v4(data))
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (a, b, c, d)
    assert (reader.v1(), reader.v2(), reader.v4(255)) == (data, data, data)
    reader.end()


@quick
@given(identifiers)
def test_identifiers(name: str) -> None:
    assert Reader(v1(identifier(name))).identifier() == name


refs = st.builds(CandidateRef, node_id=exactly(32), ek_id=exactly(16), bundle_id=exactly(32))


@quick
@given(
    st.builds(
        Header,
        rid=exactly(16),
        directory_id=exactly(32),
        token_digest=exactly(32),
        model_id=identifiers,
        deadline_ms=st.sampled_from(DEADLINES_MS),
        body_len=st.sampled_from([1096, 2120, 16_384 + 56 + 32]),
        candidates=st.lists(refs, min_size=1, max_size=4, unique_by=lambda ref: ref.node_id).map(tuple),
    )
)
def test_headers(header: Header) -> None:
    assert Header.decode(header.encode()) == header


@quick
@given(st.binary(max_size=40_000), exactly(32), exactly(24), st.binary(max_size=64))
def test_bodies(message: bytes, key: bytes, salt: bytes, context: bytes) -> None:
    body = seal_body(pad(message), key=key, salt=salt, context=context)
    assert unpad(open_body(body, key=key, context=context)) == message


@settings(max_examples=20, deadline=None)
@given(requests, st.integers(1, 4), st.data())
def test_sealed_requests_and_their_replies(request: GenerateRequest, count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    sealed, client = seal(count, request)
    assert read(client, write(sealed, index)).request == sealed.q


@quick
@given(st.lists(text, max_size=6))
def test_replies_in_any_cutting_of_text(texts: list[str]) -> None:
    sealed, client = seal()
    node = reply_sealer(sealed)
    client.start(node.head)
    chunks = [Chunk(text=words, tokens=1) for words in texts]
    assert [event for chunk in chunks for event in client.push(node.data(chunk))] == chunks


@quick
@given(st.integers(1, 3), st.integers(1, 16), st.integers(0, 2), exactly(32), st.integers(1, 4))
def test_statements(keys: int, models: int, accelerator: int, config: bytes, formats: int) -> None:
    one = worker(0)
    base = statement(one.identity, one.epoch_key)
    said = replace(
        base,
        keys=tuple(replace(base.keys[0], epoch=EPOCH + number) for number in range(keys)),
        models=tuple(replace(base.models[0], model_id=f"model-{number}") for number in range(models)),
        accelerator=type(base.accelerator)(accelerator),
        config_digest=config,
        formats=tuple(f"format-{number}" for number in range(formats)),
    )
    assert Statement.decode(said.encode()) == said


def test_the_request_of_the_tests_is_not_trivial() -> None:
    assert codec.decode_request(codec.encode_request(REQUEST)).sampling.stop == ("\n\n",)
