"""What client and node must agree on: the sealed protocol ``hpcc/1`` as pure functions.

No sockets, files, logs or gRPC live here. The normative text is ``protos/SPEC.md``.
"""
