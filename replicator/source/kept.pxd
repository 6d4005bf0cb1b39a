# Types for the compiled kept.py; what is said here holds only there.
cimport cython

cdef Py_ssize_t LARGE, _AFTER_XID

cdef class Kept:
    cdef object _subtransactions, _file
    cdef unsigned int _xid
    cdef readonly Py_ssize_t size

    @cython.locals(length=Py_ssize_t)
    cpdef Py_ssize_t add(self, unsigned int xid, payload, bytes appendix) except -1
