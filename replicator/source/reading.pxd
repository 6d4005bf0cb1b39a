# Types for the compiled reading.py; what is said here holds only there.
cimport cython
from replicator.model cimport Transaction
from replicator.pgoutput.transactions cimport Assembler
from replicator.source.buffer cimport Buffer

cdef bytes NOT_ORDINARY
cdef int XLOG_DATA, HEADER_BYTES
cdef Py_ssize_t LARGE
cdef object _NOTHING, _FULL, _TURN, _END, _LARGE

cdef class FrameReader:
    cdef object _connection, _large
    cdef Buffer _buffer
    cdef Assembler _assembler
    cdef readonly Py_ssize_t frames, transactions
    cdef readonly object end_lsn

    @cython.locals(assembler=Assembler, buffer=Buffer, transaction=Transaction, length=Py_ssize_t, frame=bytes)
    cpdef read(self, Py_ssize_t limit, bint none_is_ordinary)
