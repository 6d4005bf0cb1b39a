# Types for the compiled decoder.py; what is said here holds only there.
cimport cython

cdef object Begin, Commit, Insert, Update, Delete, _BEGIN_BODY, _COMMIT_BODY, _make
cdef bytes NULL, UNCHANGED
cdef int BEGIN, COMMIT, INSERT, UPDATE, DELETE, NEW_TUPLE, OLD_TUPLE, KEY_TUPLE, TEXT_VALUE, NULL_VALUE, UNCHANGED_VALUE
cdef int _CHANGE_BYTES

cdef class Decoder:
    cdef dict _relations
    cdef dict _rarer

    @cython.locals(kind=int)
    cpdef decode(self, bytes payload)

    @cython.locals(oid="unsigned int")
    cdef _changed(self, bytes payload)

    @cython.locals(position=Py_ssize_t)
    cdef _insert(self, bytes payload)

    @cython.locals(position=Py_ssize_t, count=Py_ssize_t, kind=int)
    cdef _update(self, bytes payload)

    @cython.locals(position=Py_ssize_t)
    cdef _delete(self, bytes payload)

@cython.locals(
    data="const unsigned char *", end=Py_ssize_t, separators=Py_ssize_t, markers=Py_ssize_t, kind=int,
    length=Py_ssize_t, values=list, line=bytes,
)
cdef tuple _row(bytes payload, Py_ssize_t position, Py_ssize_t count, bint may_lack)
