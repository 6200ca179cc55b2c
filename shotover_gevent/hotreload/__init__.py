"""Hot reload: a successor takes over the listening sockets of the process that serves.

Words: the *predecessor* serves and has a *control socket*, a file in the file system; the
*successor* connects to it, is lent the listening sockets, and *confirms* once it can serve, upon
which the predecessor *retires*: it closes its listeners and drains. Between the two stands a
*lease*: whoever was lent the sockets, and nobody else, may confirm, in limited time.

``protocol`` says which bytes are exchanged, ``client`` is the successor's side, ``server`` the
predecessor's, ``lease`` its right to confirm, ``peer`` the process at the other end, and
``socketfile`` the file.
"""
