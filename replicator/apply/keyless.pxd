# Types for the compiled keyless.py; what is said here holds only there.
cimport cython
from replicator.apply.rows cimport fill
from replicator.model cimport Delete, Insert, Relation, Update

cdef class KeylessChanges:
    cdef readonly Relation relation
    cdef readonly dict added
    cdef readonly dict removed
    cpdef insert(self, Insert change)
    cpdef update(self, Update change)
    cpdef delete(self, Delete change)

cdef _count(bytes image, dict here, dict there)
