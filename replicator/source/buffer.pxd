# Types for the compiled buffer.py; what is said here holds only there.
from replicator.model cimport Transaction

cdef class Buffer:
    cdef Py_ssize_t _limit, _bytes, _taken
    cdef list _transactions
    cdef object _idle_lsn

    cpdef add(self, Transaction transaction)
