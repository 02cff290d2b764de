"""Readings of a Mac, by ctypes over Foundation, SystemConfiguration and one kernel value.

Written from Apple's headers and not yet run on a Mac: every reading here is unverified until the tests marked ``mac``
have passed on one. ``Native`` is the whole seam to the system; ``Darwin`` over it is plain Python and tested anywhere.
"""

import ctypes
from functools import cached_property
from typing import Any, Protocol

from .sensors import Absent, Battery, Pressure, Thermal, Unknown

_FRAMEWORKS = "/System/Library/Frameworks"
_THERMAL = (Thermal.NOMINAL, Thermal.FAIR, Thermal.SERIOUS, Thermal.CRITICAL)  # NSProcessInfoThermalState 0 to 3
_PRESSURE = {1: Pressure.NORMAL, 2: Pressure.WARN, 4: Pressure.CRITICAL}  # kern.memorystatus_vm_pressure_level
_REACHABLE, _CONNECTION_REQUIRED = 1 << 1, 1 << 2  # SCNetworkReachabilityFlags
_ZERO_ADDRESS = bytes([16, 2]) + bytes(14)  # struct sockaddr_in: its length, AF_INET, then zeros


class Seam(Protocol):
    """The four facts asked of macOS, as the system gives them."""

    def low_power(self) -> bool:
        """``NSProcessInfo.isLowPowerModeEnabled``."""

    def thermal_state(self) -> int:
        """``NSProcessInfo.thermalState``."""

    def pressure_level(self) -> int:
        """Sysctl ``kern.memorystatus_vm_pressure_level``."""

    def reachability(self) -> int:
        """Return the flags of ``SCNetworkReachability`` for the zero address: whether any route leads out."""


class Darwin(Battery):
    """Readers over the seam."""

    def __init__(self, seam: Seam | None = None) -> None:
        self._seam = seam if seam is not None else Native()

    def low_power(self) -> bool | Absent | Unknown:
        """Whether low-power mode is on."""
        return self._seam.low_power()

    def thermal(self) -> Thermal | Absent | Unknown:
        """Apple's own four steps."""
        state = self._seam.thermal_state()
        return _THERMAL[state] if 0 <= state < len(_THERMAL) else Unknown(f"thermal state {state} is new")

    def memory_pressure(self) -> Pressure | Absent | Unknown:
        """Return the kernel's own three steps."""
        level = self._seam.pressure_level()
        return _PRESSURE.get(level, Unknown(f"pressure level {level} is new"))

    def network(self) -> bool | Absent | Unknown:
        """Whether the zero address is reachable without first making a connection."""
        return self._seam.reachability() & (_REACHABLE | _CONNECTION_REQUIRED) == _REACHABLE

    def metered(self) -> bool | Absent | Unknown:
        """Return that it cannot be told: macOS says it to a path monitor only, which needs a run loop of its own."""
        return Unknown("macOS does not say it to a plain call")


class Native:
    """The seam over the real libraries, loaded at the first question."""

    def low_power(self) -> bool:
        """``NSProcessInfo.isLowPowerModeEnabled``."""
        return bool(self._process_info(b"isLowPowerModeEnabled", ctypes.c_bool))

    def thermal_state(self) -> int:
        """``NSProcessInfo.thermalState``."""
        return int(self._process_info(b"thermalState", ctypes.c_long))

    def pressure_level(self) -> int:
        """Sysctl ``kern.memorystatus_vm_pressure_level``."""
        libc = ctypes.CDLL(None, use_errno=True)
        value, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        name = b"kern.memorystatus_vm_pressure_level"
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
            raise OSError(ctypes.get_errno(), "sysctlbyname")
        return value.value

    def reachability(self) -> int:
        """Return the flags of ``SCNetworkReachability`` for the zero address."""
        configuration = ctypes.CDLL(f"{_FRAMEWORKS}/SystemConfiguration.framework/SystemConfiguration")
        create = configuration.SCNetworkReachabilityCreateWithAddress
        create.restype, create.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        ask = configuration.SCNetworkReachabilityGetFlags
        ask.restype, ask.argtypes = ctypes.c_ubyte, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)]
        release = configuration.CFRelease  # from CoreFoundation, which SystemConfiguration links
        release.restype, release.argtypes = None, [ctypes.c_void_p]
        target, flags = create(None, _ZERO_ADDRESS), ctypes.c_uint32()
        if not target:
            raise OSError(0, "SCNetworkReachabilityCreateWithAddress")
        try:
            if not ask(target, ctypes.byref(flags)):
                raise OSError(0, "SCNetworkReachabilityGetFlags")
        finally:
            release(target)
        return flags.value

    @cached_property
    def _objc(self) -> ctypes.CDLL:
        ctypes.CDLL(f"{_FRAMEWORKS}/Foundation.framework/Foundation")
        objc = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
        objc.objc_getClass.restype, objc.objc_getClass.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        objc.sel_registerName.restype, objc.sel_registerName.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        objc.objc_autoreleasePoolPush.restype = ctypes.c_void_p
        objc.objc_autoreleasePoolPop.restype, objc.objc_autoreleasePoolPop.argtypes = None, [ctypes.c_void_p]
        return objc

    def _process_info(self, selector: bytes, result: Any) -> Any:
        """Send one argumentless message to the process info object, inside an autorelease pool of its own."""
        objc = self._objc
        pool = objc.objc_autoreleasePoolPush()
        try:
            info = self._send(objc.objc_getClass(b"NSProcessInfo"), b"processInfo", ctypes.c_void_p)
            return self._send(info, selector, result)
        finally:
            objc.objc_autoreleasePoolPop(pool)

    def _send(self, target: int, selector: bytes, result: Any) -> Any:
        # One prototype per signature: on arm64 a call through a variadic one passes arguments elsewhere.
        prototype = ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p)
        message = prototype(("objc_msgSend", self._objc))
        return message(target, self._objc.sel_registerName(selector))
