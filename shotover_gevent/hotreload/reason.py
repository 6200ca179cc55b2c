"""Why a session stays with its process at a reload, as far as this package decides it."""

BUSY = "busy"
CONNECTING = "connecting"
LARGE = "too much buffered"
#: What ``net.tls.TlsStream`` pins its sessions by.
TLS = "tls"

#: Reasons that pass: a session that stays for one of them may move later.
PASSING = frozenset({BUSY, CONNECTING, LARGE})
