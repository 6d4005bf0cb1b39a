"""The plug-in protocol pgoutput: bytes in, messages and transactions out. Pure: no I/O, no clock."""
