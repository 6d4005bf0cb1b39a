# Types for the compiled buffer.py; what is said here holds only there.
from replicator.model cimport Transaction

cdef Py_ssize_t _LARGE, _TRANSACTION_BYTES

cdef class Buffer:
    cdef Py_ssize_t _limit, _bytes, _taken
    cdef list _transactions
    cdef object _idle_lsn

    cpdef add(self, Transaction transaction)
