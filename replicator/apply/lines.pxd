# Types for the compiled lines.py; what is said here holds only there.
cimport cython

cdef bytes NULL, UNCHANGED

cdef bytes _without_unchanged(bytes row)
