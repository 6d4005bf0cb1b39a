# Types for the compiled kept.py; what is said here holds only there.
cimport cython

cdef Py_ssize_t LARGE, _AFTER_XID, _LENGTH, _BLOCK, _NOWHERE
cdef object _length_of

cdef class Kept:
    cdef object _subtransactions, _file
    cdef unsigned int _xid
    cdef readonly Py_ssize_t size
    cdef list _unwritten
    cdef Py_ssize_t _unwritten_bytes, _position, _block_start
    cdef bytes _block
    cdef list _rolled_back
    cdef Py_ssize_t _rolled_back_start, _rolled_back_end
    cdef readonly bint is_rolled_back

    @cython.locals(length=Py_ssize_t, grown=Py_ssize_t, unwritten=list)
    cpdef Py_ssize_t add(self, unsigned int xid, payload, bytes appendix) except -1
    @cython.locals(
        position=Py_ssize_t, place=Py_ssize_t, length=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t,
        data="const unsigned char *",
    )
    cpdef next(self)
    cdef bint _read(self, Py_ssize_t size) except -1
    cdef _write(self)
