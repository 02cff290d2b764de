"""A machine with SEV-SNP for tests of whole verifications; its root key stands where AMD's does, for the test alone."""

import pytest

from hybrid.trust.sev_snp import PRODUCTS
from tests.trust.log_maker import Cloud
from tests.trust.snp_maker import Amd


@pytest.fixture(scope="session")
def amd() -> Amd:
    return Amd()


@pytest.fixture
def confidential(amd: Amd, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A deployment of tier 2."""
    monkeypatch.setitem(PRODUCTS, "milan", amd.root)
    return Cloud(amd=amd)
