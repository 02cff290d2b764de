"""The on-device runtime of hybrid-pcc. Programs use it through ``hybrid``, never directly.

The marker lets ``hybrid.local`` tell this package from a user's own ``device.py``.
"""

HYBRID_PCC_DEVICE = "0.1.0"
