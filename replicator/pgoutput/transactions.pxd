# Types for the compiled transactions.py; what is said here holds only there.
from replicator.model cimport Transaction
from replicator.pgoutput.decoder cimport Decoder
from replicator.pgoutput.messages cimport Begin, Commit

cdef object Emitted

cdef class Assembler:
    cdef Py_ssize_t _piece_bytes, _size
    cdef Decoder _decoder
    cdef Begin _begin
    cdef list _changes
    cdef dict _others

    cpdef Transaction feed(self, bytes payload)
    cdef Transaction _add(self, change, Py_ssize_t size)
    cpdef begin(self, Begin begin)
    cpdef Transaction commit(self, Commit commit)
    cdef Transaction _hand_out(self, Begin begin, unsigned long long end_lsn, bint complete)
