# Types for the compiled messages.py; what is said here holds only there.

cdef class Begin:
    cdef readonly unsigned long long commit_lsn
    cdef readonly long long committed_at
    cdef readonly unsigned int xid

cdef class Commit:
    cdef readonly unsigned long long commit_lsn, end_lsn
    cdef readonly long long committed_at
