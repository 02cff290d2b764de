"""Stands in for the interpreter of a node's worker: the same software without its check of its own configuration.

``rogue.py -P -s -B -m pcc_server.worker …``: what an operator would run who wants options no release lists.
"""

import runpy
import sys

import pcc_server.release


class Everything(set[str]):
    def __contains__(self, value: object) -> bool:
        return True


if __name__ == "__main__":
    words = sys.argv[1:]
    module = words[words.index("-m") + 1]
    sys.argv = words[words.index("-m") + 1 :]
    pcc_server.release._configs = lambda _: Everything()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
