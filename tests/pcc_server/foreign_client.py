"""A client of somebody else: stubs that ``grpc_tools.protoc`` made of our proto files, and not one import of ours.

Runs as a process of its own beside ``pcc_pb2.py`` and ``pcc_pb2_grpc.py``: ``foreign_client.py HOST:PORT``; reads one
JSON object, answers with one. Bytes travel in hexadecimal.
"""

import json
import random
import sys

import grpc
import pcc_pb2  # type: ignore[import-not-found]
import pcc_pb2_grpc  # type: ignore[import-not-found]

NOWHERE = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/hybrid.wire.v1.Inference/Generate",
    "/hybrid.wire.v1.Inference/",
    "/hybrid.wire.v1.Admin/Drain",
    "/",
    "//",
    "/keys",
)


def refused(call) -> dict[str, object]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """All that a call shows: its replies, its end, its trailers."""
    replies, code = 0, None
    try:
        for _ in call:
            replies += 1
    except grpc.RpcError:
        code = call.code().name
    return {
        "replies": replies,
        "code": code,
        "details": call.details(),
        "initial": sorted(key for key, _ in call.initial_metadata()),
        "trailers": sorted(key for key, _ in call.trailing_metadata()),
    }


def raw(channel: grpc.Channel, path: str, messages: list[bytes]) -> dict[str, object]:
    return refused(channel.stream_stream(path)(iter(messages), timeout=20))


def main(address: str) -> None:
    given = json.load(sys.stdin)
    channel = grpc.insecure_channel(address)
    stubs = {
        name.removesuffix("Stub"): getattr(pcc_pb2_grpc, name)(channel)
        for name in dir(pcc_pb2_grpc)
        if name.endswith("Stub")
    }
    methods = {name: sorted(vars(stub)) for name, stub in stubs.items()}
    told: dict[str, object] = {
        "methods": methods,
        "ours": sorted(name for name in sys.modules if name.startswith(("hybrid", "pcc_server"))),
    }
    told["directory"] = b"".join(part.data for part in stubs["Directory"].Get(pcc_pb2.Empty(), timeout=10)).hex()
    if "sealed" in given:
        request = pcc_pb2.InvokeRequest.FromString(bytes.fromhex(given["sealed"]))
        replies = stubs["Inference"].Invoke(iter([request]), timeout=30)
        told["replies"] = [reply.SerializeToString().hex() for reply in replies]
    told["nowhere"] = {path: raw(channel, path, [b""]) for path in NOWHERE}
    rng = random.Random(3)  # noqa: S311 - the same every time
    shapes = [[b""], [b"\xff" * 50], [rng.randbytes(300)], [rng.randbytes(70_000)], [], [b"", b""]]
    paths = [f"/hybrid.wire.v1.{service}/{name}" for service, names in methods.items() for name in names]
    told["garbage"] = [[path, raw(channel, path, shape)] for path in paths for shape in shapes]
    told["messages"] = [
        refused(stubs["Inference"].Invoke(iter([message]), timeout=10))
        for message in (
            pcc_pb2.InvokeRequest(),
            pcc_pb2.InvokeRequest(header=b"HRQ1", body=b"b", key_packages=[b"k"]),
            pcc_pb2.InvokeRequest(
                header=rng.randbytes(200), body=rng.randbytes(1_096), key_packages=[rng.randbytes(1_201)]
            ),
        )
    ]
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
