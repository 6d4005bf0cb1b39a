# Types for the compiled streamed.py; what is said here holds only there.
cimport cython
from replicator.model cimport Transaction
from replicator.pgoutput.transactions cimport Assembler
from replicator.source.kept cimport Kept

cdef int RELATION, STREAM_ABORT, STREAM_COMMIT, STREAM_START, STREAM_STOP
cdef int _AT_ONCE

cdef class _Replay:
    cdef readonly object commit
    cdef readonly Kept kept
    cdef readonly dict described

cdef class Streamed:
    cdef Assembler _assembler
    cdef dict _kept, _newest
    cdef Kept _block
    cdef readonly bint in_block, replaying, undecided
    cdef Py_ssize_t _descriptions
    cdef _Replay _replay
    cdef readonly Py_ssize_t size

    cpdef take(self, payload)
    cdef _take_inside(self, Kept block, payload)
    @cython.locals(transaction=Transaction, kept=Kept)
    cdef Transaction _go_on(self, _Replay replay)
