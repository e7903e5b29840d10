"""The models. `from corerec.engines import TwoTower, BERT4Rec, DCN, DLRM`.

Each is loaded when it is asked for, so that ranking runs where only torch is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corerec.engines.bert4rec import BERT4Rec
    from corerec.engines.dcn import DCN
    from corerec.engines.dlrm import DLRM
    from corerec.engines.two_tower import TwoTower

__all__ = ["DCN", "DLRM", "BERT4Rec", "TwoTower"]

_HOMES = {"TwoTower": "two_tower", "BERT4Rec": "bert4rec", "DCN": "dcn", "DLRM": "dlrm"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
