# Types for the compiled transactions.py; what is said here holds only there.
from replicator.pgoutput.decoder cimport Decoder

cdef object Begin, Commit, Emitted, Transaction

cdef class Assembler:
    cdef Py_ssize_t _piece_bytes, _size
    cdef Decoder _decoder
    cdef object _begin
    cdef list _changes
    cdef dict _others

    cpdef feed(self, bytes payload)
    cdef _add(self, change, Py_ssize_t size)
    cpdef begin(self, begin)
    cpdef commit(self, commit)
    cdef _hand_out(self, begin, end_lsn, bint complete)
