/* What `_fast.c` knows of an entry, and `_entry.c` makes. */

#include <Python.h>
#include <structmember.h>

/* What an entry of the local tier is made of: the attributes of `_local/entry.Entry`. */
typedef struct {
    PyObject_HEAD
    PyObject *value; /* what a hit looks at comes first, in one line of the processor's cache */
    double until;
    Py_ssize_t hits;
    PyObject *key, *region, *local_key, *codec, *_tags;
    double refresh_at, fresh_until, expires_at, created_at;
    Py_ssize_t spent, size, epoch;
    char place;
} Node;

/* A mutable value, of which each caller gets a copy. */
typedef struct {
    PyObject_HEAD
    PyObject *value;
    char quick; /* whether the compiled wrapper may copy it: the policy need not be told of hits */
} Original;

extern PyType_Spec aikcache_node_spec, aikcache_original_spec;

/* A new reference; NULL with an exception. */
PyObject *aikcache_copy(Original *original);

#define VISIT(name) Py_VISIT(self->name);
#define CLEAR(name) Py_CLEAR(self->name);
