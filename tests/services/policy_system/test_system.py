from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from edgeflex_flow.errors import FatalError
from edgeflex_services.policy_system.system import PolicySystem


@pytest.mark.parametrize("length", [0, 11, 201])
def test_a_first_password_of_a_wrong_length_is_refused_in_words(tmp_path: Path, length: int) -> None:
    with closing(PolicySystem(f"sqlite:///{tmp_path / 'policy.db'}", tmp_path)) as system:
        with pytest.raises(FatalError, match=f"has 12 to 200 characters; got one of {length}$"):
            system.start(admin_password=length * "x")
        assert system.accounts.users() == []
