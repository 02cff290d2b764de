"""A child's environment, built from nothing (node design 3.1)."""

import sys

# The only suite of TLS 1.2 that grpc gets needs a key shared beforehand, which no port has: 1.3 is left (see tls.py).
GRPC = {"GRPC_VERBOSITY": "NONE", "GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES256-CBC-SHA"}

# Every freed block is overwritten, by 0xa5 or, on a Mac, 0x55: all of it works only when set before a program starts,
# and ``harden.allocator`` looks whether it does. glibc's thread cache would keep blocks as they were given back.
SCRUB = {
    "PYTHONMALLOC": "malloc",
    **(
        {"MallocScribble": "1"}
        if sys.platform == "darwin"
        else {"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}
    ),
}


def environment(program: str) -> dict[str, str]:
    """Build a child's environment from nothing (node design 3.1): what is not here does not reach it."""
    shared = {"LC_ALL": "C.UTF-8", "PYTHON_DISABLE_REMOTE_DEBUG": "1", **SCRUB}
    if program == "gateway":
        return {**shared, **GRPC}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "critical"}
    # On a CPU, compiling writes C++ source into the shared temporary folder and runs a compiler on it.
    compiling = {} if sys.platform == "darwin" else {"MLX_DISABLE_COMPILE": "1"}
    return {**shared, **offline, **quiet, **compiling}
