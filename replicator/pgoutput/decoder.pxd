# Types for the compiled decoder.py; what is said here holds only there.
cimport cython
from replicator.model cimport Delete, Insert, Relation, Update
from replicator.pgoutput.messages cimport Begin, Commit

cdef object _BEGIN_BODY, _COMMIT_BODY
cdef bytes NULL, UNCHANGED
cdef int BEGIN, COMMIT, INSERT, UPDATE, DELETE, NEW_TUPLE, OLD_TUPLE, KEY_TUPLE, TEXT_VALUE, NULL_VALUE, UNCHANGED_VALUE
cdef int _CHANGE_BYTES
cdef char _TAB, _NEWLINE, _RETURN, _BACKSLASH

cdef class Decoder:
    cdef dict _relations
    cdef dict _rarer
    cdef Py_ssize_t _position

    @cython.locals(kind=int)
    cpdef decode(self, bytes payload)

    @cython.locals(oid="unsigned int", relation=Relation)
    cdef Relation _changed(self, bytes payload)

    @cython.locals(relation=Relation, new=bytes)
    cdef _insert(self, bytes payload)

    @cython.locals(relation=Relation, old=bytes, new=bytes, old_is_full=bint, count=Py_ssize_t, kind=int)
    cdef _update(self, bytes payload)

    @cython.locals(relation=Relation, old=bytes)
    cdef _delete(self, bytes payload)

    @cython.locals(
        data="const unsigned char *", end=Py_ssize_t, position=Py_ssize_t, special=bint, kind=int, length=Py_ssize_t,
        values=list, value=bytes, line=bytes,
    )
    cdef bytes _row(self, bytes payload, Py_ssize_t count, bint may_lack)
