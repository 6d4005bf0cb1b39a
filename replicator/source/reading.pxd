# Types for the compiled reading.py; what is said here holds only there.
cimport cython
from replicator.model cimport Transaction
from replicator.pgoutput.transactions cimport Assembler
from replicator.source.buffer cimport Buffer
from replicator.source.streamed cimport Streamed

cdef bytes NOT_ORDINARY
cdef int XLOG_DATA, HEADER_BYTES
cdef Py_ssize_t LARGE
cdef object _NOTHING, _FULL, _TURN, _END, _LARGE, _COMMITTED

cdef class FrameReader:
    cdef object _connection, _large
    cdef Buffer _buffer
    cdef Streamed _streamed
    cdef Assembler _assembler
    cdef readonly Py_ssize_t frames, received, transactions
    cdef readonly object end_lsn

    @cython.locals(
        assembler=Assembler, streamed=Streamed, buffer=Buffer, transaction=Transaction, length=Py_ssize_t,
        frame=bytes, payload=bytes, data="const unsigned char *",
    )
    cpdef read(self, Py_ssize_t limit)
