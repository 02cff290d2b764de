"""A child's environment, built from nothing (node design 3.1)."""

import sys


def environment(program: str) -> dict[str, str]:
    """Build a child's environment from nothing (node design 3.1): what is not here does not reach it."""
    shared = {"LC_ALL": "C.UTF-8"}
    if program == "gateway":
        return {**shared, "GRPC_VERBOSITY": "NONE"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "critical"}
    # On a CPU, compiling writes C++ source into the shared temporary folder and runs a compiler on it.
    compiling = {} if sys.platform == "darwin" else {"MLX_DISABLE_COMPILE": "1"}
    return {**shared, **offline, **quiet, **compiling}
