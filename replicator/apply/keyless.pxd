# Types for the compiled keyless.py; what is said here holds only there.
cimport cython
from replicator.apply.rows cimport fill, lacks
from replicator.model cimport Delete, Insert, Relation, Update

cdef class KeylessChanges:
    cdef readonly Relation relation
    cdef readonly dict added
    cdef readonly dict removed
    cpdef insert(self, Insert change)
    cpdef bint update(self, Update change) except -1
    cpdef bint delete(self, Delete change) except -1

cdef _count(bytes image, dict here, dict there)
