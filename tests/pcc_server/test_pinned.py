"""A node says in its evidence which model it runs, so it refuses bytes nobody has vouched for."""

from dataclasses import replace

import pytest

from pcc_server.engines.mlx import _check_pinned
from pcc_server.errors import StartFailure
from tests.support_models import entry

pytestmark = pytest.mark.mlx


def test_a_hub_model_without_a_digest_is_refused_with_the_way_out() -> None:
    with pytest.raises(StartFailure, match="hybrid pull tiny"):
        _check_pinned(replace(entry(), digest=""))


def test_a_pinned_one_is_taken() -> None:
    _check_pinned(entry())
