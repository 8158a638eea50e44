/* The proof that a plan of addresses still holds, at the speed of memory.
 *
 * Walks over an optimizer's parameters, gradients and state and compares every object, address, type and shape with what
 * they were when the plan was made. It is all lookups: in Python they would cost more than the step of a small tensor.
 *
 * Needs no header of Python or torch, so that one build serves all versions: the functions of Python's stable interface
 * and of torch's C interface come by address (`Api`). They run under the interpreter's lock.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

typedef struct Object Object;
typedef void *Tensor; /* what torch's C interface takes: the address of a pointer to the tensor itself */

enum { MOST = 12 }; /* tensors of a parameter's state at most: its columns, and the step number */

typedef struct {
    /* Python: PyDict_Next, PyDict_Size, PyDict_GetItemWithError, PyList_Size, PyList_GetItem, PyObject_GetAttr,
     * PyObject_CallFunctionObjArgs, PyObject_RichCompareBool, Py_IncRef, Py_DecRef, PyErr_Clear */
    int (*dict_next)(Object *, ptrdiff_t *, Object **, Object **);
    ptrdiff_t (*dict_size)(Object *);
    Object *(*dict_get)(Object *, Object *);
    ptrdiff_t (*list_size)(Object *);
    Object *(*list_get)(Object *, ptrdiff_t);
    Object *(*attribute)(Object *, Object *);
    Object *(*call)(Object *, ...);
    int (*compare)(Object *, Object *, int);
    void (*keep)(Object *);
    void (*release)(Object *);
    void (*clear_error)(void);
    /* torch: aoti_torch_get_... */
    int (*data_ptr)(Tensor, int64_t *);
    int (*dtype)(Tensor, int32_t *);
    int (*device_type)(Tensor, int32_t *);
    int (*device_index)(Tensor, int32_t *);
    int (*dim)(Tensor, int64_t *);
    int (*sizes)(Tensor, int64_t **);
    int (*strides)(Tensor, int64_t **);
    int (*storage_offset)(Tensor, int64_t *);
    int (*storage_size)(Tensor, int64_t *);
    int (*layout)(Tensor, int32_t *); /* 0 where this torch has none */
    int64_t words;                    /* of a tensor's object that precede its pointer to the tensor itself */
    int64_t type_words;               /* and that precede the pointer to its type */
    int64_t names;                    /* of a parameter's state, the step number last */
    int64_t alike;                    /* of these, from the first on, those with the parameter's shape; exponents follow */
    /* objects; dtensor_type is None until there are distributed tensors */
    Object *none, *yes, *tensor_type, *parameter_type, *dtensor_type, *grad, *local, *spec, *is_neg, *is_conj, *name[MOST];
} Api;

/* Where a tensor's elements are. */
typedef struct {
    int64_t address;
    int32_t dtype, device_type, device_index, item; /* item: bytes of an element, the caller's knowledge */
} Place;

typedef struct {
    int64_t dim, *sizes, *strides;
} Shape;

/* One parameter of the plan: itself and its state, 0 where it has no such tensor, and where they were. Of distributed
 * tensors (is_local) it is their parts in this process that count. `blocks` are the elements of the exponents of its codes,
 * which have one shape. */
typedef struct {
    Object *entry, *objects[1 + MOST];
    Place places[1 + MOST];
    Shape shape, exponents;
    int64_t elements, blocks, g_address, is_complex, is_local;
} Row;

/* How many tensors are held for each row while a kernel runs: the parameter, its state and, last, its gradient. */
static int64_t held_of(const Api *api) { return 2 + api->names; }

enum { AHEAD = 8 }; /* rows, of what is asked for before it is needed */

typedef struct {
    int64_t params, keys, rows, without;          /* how many */
    Object **param, **key, **entry, **without_grad; /* all parameters; the state's keys and entries; those without gradient */
    int64_t lists, *begins;                       /* parameters of group i: from begins[i] to begins[i + 1] */
    int64_t *at;                                  /* where each row's gradient is in a list of gradients */
    Row *row;
} Plan;

static Tensor tensor_of(const Api *api, Object *object) { return (Tensor)((int64_t *)object + api->words); }

/* Reads where an object's elements are; 0 where that cannot be said (a sparse tensor, ...). */
static int look(const Api *api, Object *object, Place *place, Shape *shape) {
    Tensor tensor = tensor_of(api, object);
    int32_t layout = 0;
    if (api->layout && (api->layout(tensor, &layout) || layout)) return 0; /* 0 is strided, with memory of its own */
    return !(api->data_ptr(tensor, &place->address) || api->dtype(tensor, &place->dtype) ||
             api->device_type(tensor, &place->device_type) || api->device_index(tensor, &place->device_index) ||
             api->dim(tensor, &shape->dim) || api->sizes(tensor, &shape->sizes) ||
             api->strides(tensor, &shape->strides));
}

/* Whether that many dense elements of a tensor are inside its storage, which can be shrunk behind its back. */
static int stored(const Api *api, Object *object, const Place *now, int64_t elements, int64_t item) {
    Tensor tensor = tensor_of(api, object);
    int64_t offset, size;
    if (elements && !now->address) return 0; /* a tensor that only says that it is full of zeros has none at all */
    return !api->storage_offset(tensor, &offset) && !api->storage_size(tensor, &size) &&
           (offset + elements) * item <= size;
}

static int same_shape(const Shape *now, const Shape *then) {
    size_t bytes = (size_t)then->dim * sizeof(int64_t);
    return now->dim == then->dim && !memcmp(now->sizes, then->sizes, bytes) &&
           !memcmp(now->strides, then->strides, bytes);
}

static int same_kind(const Place *now, const Place *then) {
    return now->dtype == then->dtype && now->device_type == then->device_type &&
           now->device_index == then->device_index;
}

/* Whether a lazily negated or conjugated tensor's memory is not what it says. What negates lazily is the imaginary part of
 * a conjugate, whose strides are those of no dense tensor of more than one element. */
static int altered(const Api *api, Object *tensor, const Row *row) {
    if (!row->is_complex && row->elements > 1) return 0; /* it costs a call of Python */
    Object *neg = api->call(api->is_neg, tensor, NULL);
    Object *conj = row->is_complex ? api->call(api->is_conj, tensor, NULL) : NULL;
    int result = neg == api->yes || conj == api->yes || !neg;
    if (neg) api->release(neg);
    if (conj) api->release(conj);
    return result;
}

static int of_type(const Api *api, const Object *object, const Object *one, const Object *other) {
    const Object *type = ((const Object *const *)object)[api->type_words];
    return type == one || type == other;
}

/* The plain tensor that has the memory, for whoever releases it: of a distributed tensor its part in this process. 0 where
 * there is none (a subclass; a part that is still on its way from another process). */
static Object *inner(const Api *api, Object *object, int64_t is_local) {
    Object *part = object;
    if (!is_local)
        api->keep(object);
    else if (!of_type(api, object, api->dtensor_type, NULL) || !(part = api->attribute(object, api->local)))
        return NULL;
    if (of_type(api, part, api->tensor_type, api->parameter_type)) return part;
    api->release(part);
    return NULL;
}

/* A parameter's state has the tensors that it had, or others at their addresses: none that is touched later is dead. */
static int present(const Api *api, const Row *row) {
    for (int64_t i = 1; i <= api->names; i++)
        if (row->objects[i] && api->dict_get(row->entry, api->name[i - 1]) != row->objects[i]) return 0;
    return 1;
}

/* A parameter and its state are where they were; keeps them in `held`. */
static int unmoved(const Api *api, const Row *row, Object **held) {
    Place now;
    Shape shape;
    for (int64_t i = 0; i <= api->names; i++) {
        const Place *then = &row->places[i];
        int is_step = i == api->names, is_exponents = i > api->alike && !is_step;
        Object *object = row->objects[i];
        if (!object) continue;
        if (!(held[i] = inner(api, object, row->is_local && !is_step))) return 0;
        if (!look(api, held[i], &now, &shape) || now.address != then->address || !same_kind(&now, then)) return 0;
        if (is_step ? shape.dim != 0 : !same_shape(&shape, is_exponents ? &row->exponents : &row->shape)) return 0;
        if (!stored(api, held[i], &now, is_step ? 1 : is_exponents ? row->blocks : row->elements, then->item)) return 0;
        if (!is_step && altered(api, held[i], row)) return 0;
    }
    return 1;
}

/* Two distributed tensors have the same mesh and placements. */
static int same_spec(const Api *api, Object *one, Object *other) {
    enum { EQUAL = 2 }; /* Py_EQ */
    Object *a = api->attribute(one, api->spec), *b = api->attribute(other, api->spec);
    int result = a && b && (a == b || api->compare(a, b, EQUAL) == 1);
    if (a) api->release(a);
    if (b) api->release(b);
    return result;
}

/* A parameter's gradient fits it: notes where it is now, and keeps it in `held`. */
static int follow(const Api *api, Row *row, Object *gradient, Object **held) {
    const Place *then = &row->places[0];
    Place now;
    Shape shape;
    if (gradient == api->none) return 0;
    Object *part = held[1 + api->names] = inner(api, gradient, row->is_local);
    if (!part) return 0;
    if (row->is_local && !same_spec(api, gradient, row->objects[0])) return 0;
    row->g_address = 0;
    if (!look(api, part, &now, &shape) || !same_kind(&now, then) || !same_shape(&shape, &row->shape) ||
        !stored(api, part, &now, row->elements, then->item) || now.address % then->item || altered(api, part, row))
        return 0;
    row->g_address = now.address;
    return 1;
}

/* The tensors of a list are scattered over memory: their objects are asked for some rows ahead, then what they point to. */
static void fetch(const Api *api, const Plan *plan, int64_t i) {
    enum { OBJECTS = AHEAD, TENSORS = 4, TENSOR_BYTES = 256 };
    for (int64_t k = 0; k <= api->names; k++) {
        if (i + OBJECTS < plan->rows) PREFETCH(plan->row[i + OBJECTS].objects[k]);
        Object *object = i + TENSORS < plan->rows ? plan->row[i + TENSORS].objects[k] : NULL;
        if (!object) continue;
        const char *tensor = *(const char **)tensor_of(api, object);
        for (int byte = 0; byte < TENSOR_BYTES; byte += 64) PREFETCH(tensor + byte);
    }
}

/* `gradients` is a list of them, or 0 where each is an attribute of its parameter. */
static int holds(const Api *api, const Plan *plan, Object *lists, Object *state, Object *gradients, Object **held) {
    if (api->list_size(lists) != plan->lists) return 0;
    for (int64_t i = 0; i < plan->lists; i++) {
        Object *list = api->list_get(lists, i);
        if (!list || api->list_size(list) != plan->begins[i + 1] - plan->begins[i]) return 0;
        for (int64_t j = plan->begins[i]; j < plan->begins[i + 1]; j++)
            if (api->list_get(list, j - plan->begins[i]) != plan->param[j]) return 0; /* alive: it is in the list */
    }
    /* Entries are dicts, of which none is kept alive here: that one is in the state now says that it is alive. */
    if (api->dict_size(state) != plan->keys) return 0;
    Object *key, *entry;
    ptrdiff_t position = 0;
    for (int64_t i = 0; api->dict_next(state, &position, &key, &entry); i++)
        if (key != plan->key[i] || entry != plan->entry[i]) return 0;
    for (int64_t i = 0; i < plan->without; i++) {
        Object *g = api->attribute(plan->without_grad[i], api->grad);
        if (!g) return 0;
        api->release(g);
        if (g != api->none) return 0;
    }
    if (gradients && api->list_size(gradients) != plan->params) return 0;
    /* All are kept before the first gradient is looked at: to compare those of distributed tensors runs Python, and with it
     * other threads. */
    for (int64_t i = 0; i < plan->rows; i++) {
        if (i + AHEAD < plan->rows) PREFETCH(plan->row[i + AHEAD].entry);
        if (!present(api, &plan->row[i])) return 0;
    }
    for (int64_t i = 0; i < plan->rows; i++) {
        fetch(api, plan, i);
        if (!unmoved(api, &plan->row[i], held + i * held_of(api))) return 0;
    }
    for (int64_t i = 0; i < plan->rows; i++) {
        Row *row = &plan->row[i];
        Object *g = gradients ? api->list_get(gradients, plan->at[i]) : api->attribute(row->objects[0], api->grad);
        if (!g) return 0;
        int fits = follow(api, row, g, held + i * held_of(api));
        if (!gradients) api->release(g);
        if (!fits) return 0;
    }
    return 1;
}

/* Lets go of what was held. */
EXPORT void adabelief_release(const Api *api, Object **held, int64_t rows) {
    for (int64_t i = 0; i < rows * held_of(api); i++)
        if (held[i]) api->release(held[i]);
}

/* Whether the plan holds; writes the gradients' addresses, and into `moved` whether any is not what it was. While it holds,
 * everything that a kernel is to touch is kept alive in `held`, which has to be full of zeros, until it is released: another
 * thread may drop a gradient while this one waits for the kernel. */
EXPORT int adabelief_holds(const Api *api, const Plan *plan, Object *lists, Object *state, Object *gradients,
                           int64_t *addresses, int *moved, Object **held) {
    int result = holds(api, plan, lists, state, gradients == api->none ? NULL : gradients, held);
    api->clear_error(); /* an attribute that is not there is an answer, not the caller's error */
    *moved = 0;
    for (int64_t i = 0; result && i < plan->rows; i++) {
        *moved |= addresses[i] != plan->row[i].g_address;
        addresses[i] = plan->row[i].g_address;
    }
    if (!result) {
        adabelief_release(api, held, plan->rows);
        memset(held, 0, (size_t)(plan->rows * held_of(api)) * sizeof *held);
    }
    return result;
}

EXPORT int64_t adabelief_row_bytes(void) { return sizeof(Row); }

EXPORT int64_t adabelief_most(void) { return MOST; }

/* Copies a shape to where it lasts. */
static void keep_shape(Shape *shape, int64_t *room) {
    size_t bytes = (size_t)shape->dim * sizeof(int64_t);
    shape->sizes = memcpy(room, shape->sizes, bytes);
    shape->strides = memcpy(room + shape->dim, shape->strides, bytes);
}

/* Notes a parameter and its state's tensors (0 where there is none), and the dict that holds these. `items` are the bytes
 * of an element of each. Needs room for 2 dim + 4 numbers in `numbers`. Returns 0 where it cannot. */
EXPORT _Bool adabelief_note(const Api *api, Row *row, Object *entry, Object *const *objects, const int32_t *items,
                          int64_t elements, int64_t blocks, int is_complex, int is_local, int64_t *numbers) {
    Shape other;
    row->entry = entry, row->elements = elements, row->blocks = blocks;
    row->is_complex = is_complex, row->is_local = is_local, row->g_address = 0;
    for (int64_t i = 0; i <= api->names; i++) {
        row->objects[i] = objects[i];
        if (!objects[i]) continue;
        Object *tensor = inner(api, objects[i], is_local && i != api->names);
        int is_exponents = i > api->alike && i < api->names;
        Shape *shape = i == 0 ? &row->shape : is_exponents ? &row->exponents : &other;
        int found = tensor && look(api, tensor, &row->places[i], shape) && (!is_exponents || shape->dim == 2);
        if (found && shape != &other) /* before the tensor may go */
            keep_shape(shape, numbers + (is_exponents ? 2 * row->shape.dim : 0));
        if (tensor) api->release(tensor);
        if (!found) {
            api->clear_error();
            return 0;
        }
        row->places[i].item = items[i];
    }
    return 1;
}
