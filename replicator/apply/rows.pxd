# Types for the compiled rows.py; what is said here holds only there.
cimport cython

cdef class KeyReader:
    cdef tuple _positions
    cdef Py_ssize_t _last
    cdef bint _leads
    @cython.locals(data="const char *", end=Py_ssize_t, values=list)
    cpdef bytes read(self, bytes row)

cdef bytes UNCHANGED
cdef char _BACKSLASH

cpdef bint lacks(bytes row)

cpdef bytes fill(bytes row, bytes before, only=*)

cpdef tuple unchanged_positions(bytes row)

@cython.locals(value=bytes)
cpdef list values(bytes line)
