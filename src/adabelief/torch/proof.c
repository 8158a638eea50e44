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

enum { NAMES = 5, STEP = 5 }; /* of a parameter's state; the parameter itself is before them, the step number last */

typedef struct {
    /* Python: PyDict_Next, PyDict_Size, PyDict_GetItemWithError, PyList_Size, PyList_GetItem, PyObject_GetAttr,
     * PyObject_Type, PyObject_CallFunctionObjArgs, Py_DecRef, PyErr_Clear */
    int (*dict_next)(Object *, ptrdiff_t *, Object **, Object **);
    ptrdiff_t (*dict_size)(Object *);
    Object *(*dict_get)(Object *, Object *);
    ptrdiff_t (*list_size)(Object *);
    Object *(*list_get)(Object *, ptrdiff_t);
    Object *(*attribute)(Object *, Object *);
    Object *(*type)(Object *);
    Object *(*call)(Object *, ...);
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
    /* objects */
    Object *none, *yes, *tensor_type, *parameter_type, *grad, *is_neg, *is_conj, *names[NAMES];
} Api;

/* Where a tensor's elements are. */
typedef struct {
    int64_t address;
    int32_t dtype, device_type, device_index, item; /* item: bytes of an element, the caller's knowledge */
} Place;

typedef struct {
    int64_t dim, *sizes, *strides;
} Shape;

/* One parameter of the plan: itself and its state, 0 where it has no such tensor, and where they were. */
typedef struct {
    Object *entry, *objects[1 + NAMES];
    Place places[1 + NAMES];
    Shape shape;
    int64_t elements, g_address, is_complex;
} Row;

typedef struct {
    int64_t params, keys, rows, without;          /* how many */
    Object **param, **key, **entry, **without_grad; /* all parameters; the state's keys and entries; those without gradient */
    int64_t lists, *begins;                       /* parameters of group i: from begins[i] to begins[i + 1] */
    Row *row;
} Plan;

static Tensor tensor_of(const Api *api, Object *object) { return (Tensor)((int64_t *)object + api->words); }

/* Reads where an object's elements are; 0 where that cannot be said (a sparse tensor, ...). */
static int look(const Api *api, Object *object, Place *place, Shape *shape) {
    Tensor tensor = tensor_of(api, object);
    int32_t layout = 0;
    if (api->layout && (api->layout(tensor, &layout) || layout)) return 0;
    return !(api->data_ptr(tensor, &place->address) || api->dtype(tensor, &place->dtype) ||
             api->device_type(tensor, &place->device_type) || api->device_index(tensor, &place->device_index) ||
             api->dim(tensor, &shape->dim) || api->sizes(tensor, &shape->sizes) ||
             api->strides(tensor, &shape->strides));
}

/* Whether that many dense elements of a tensor are inside its storage, which can be shrunk behind its back. */
static int stored(const Api *api, Object *object, int64_t elements, int64_t item) {
    Tensor tensor = tensor_of(api, object);
    int64_t offset, size;
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
static int altered(const Api *api, Object *tensor, int is_complex, int64_t elements) {
    if (!is_complex && elements > 1) return 0;
    Object *neg = api->call(api->is_neg, tensor, NULL), *conj = is_complex ? api->call(api->is_conj, tensor, NULL) : NULL;
    int result = neg == api->yes || conj == api->yes || !neg;
    if (neg) api->release(neg);
    if (conj) api->release(conj);
    return result;
}

static int plain(const Api *api, Object *object) {
    Object *type = api->type(object);
    api->release(type);
    return type == api->tensor_type || type == api->parameter_type;
}

/* A parameter and its state are where they were. */
static int unmoved(const Api *api, const Row *row) {
    Place now;
    Shape shape;
    for (int i = 0; i <= NAMES; i++) {
        const Place *then = &row->places[i];
        Object *object = row->objects[i];
        if (!object) continue;
        if (i && api->dict_get(row->entry, api->names[i - 1]) != object) return 0;
        if (!look(api, object, &now, &shape) || now.address != then->address || !same_kind(&now, then)) return 0;
        if (i == STEP ? shape.dim != 0 : !same_shape(&shape, &row->shape)) return 0;
        if (!stored(api, object, i == STEP ? 1 : row->elements, then->item)) return 0;
    }
    return 1;
}

/* A parameter's gradient fits it; notes where it is now. */
static int follow(const Api *api, Row *row) {
    Object *g = api->attribute(row->objects[0], api->grad);
    if (!g) return 0;
    Place now;
    Shape shape;
    int fits = g != api->none && plain(api, g) && look(api, g, &now, &shape) && same_kind(&now, &row->places[0]) &&
               same_shape(&shape, &row->shape) && stored(api, g, row->elements, row->places[0].item) &&
               !altered(api, g, (int)row->is_complex, row->elements);
    if (fits) row->g_address = now.address;
    api->release(g);
    return fits;
}

/* The tensors of a list are scattered over memory: their objects are asked for some rows ahead, then what they point to. */
static void fetch(const Api *api, const Plan *plan, int64_t i) {
    enum { OBJECTS = 8, TENSORS = 4, TENSOR_BYTES = 256 };
    for (int k = 0; k <= NAMES; k++) {
        if (i + OBJECTS < plan->rows) PREFETCH(plan->row[i + OBJECTS].objects[k]);
        Object *object = i + TENSORS < plan->rows ? plan->row[i + TENSORS].objects[k] : NULL;
        if (!object) continue;
        const char *tensor = *(const char **)tensor_of(api, object);
        for (int byte = 0; byte < TENSOR_BYTES; byte += 64) PREFETCH(tensor + byte);
    }
    if (i + OBJECTS < plan->rows) PREFETCH(plan->row[i + OBJECTS].entry);
}

static int holds(const Api *api, const Plan *plan, Object *lists, Object *state) {
    if (api->list_size(lists) != plan->lists) return 0;
    for (int64_t i = 0; i < plan->lists; i++) {
        Object *list = api->list_get(lists, i);
        if (!list || api->list_size(list) != plan->begins[i + 1] - plan->begins[i]) return 0;
        for (int64_t j = plan->begins[i]; j < plan->begins[i + 1]; j++)
            if (api->list_get(list, j - plan->begins[i]) != plan->param[j]) return 0;
    }
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
    for (int64_t i = 0; i < plan->rows; i++) {
        fetch(api, plan, i);
        if (!unmoved(api, &plan->row[i]) || !follow(api, &plan->row[i])) return 0;
    }
    return 1;
}

/* Whether the plan holds; writes the gradients' addresses, and into `moved` whether any is not what it was. */
EXPORT int adabelief_holds(const Api *api, const Plan *plan, Object *lists, Object *state, int64_t *gradients, int *moved) {
    int result = holds(api, plan, lists, state);
    api->clear_error();
    *moved = 0;
    for (int64_t i = 0; result && i < plan->rows; i++) {
        *moved |= gradients[i] != plan->row[i].g_address;
        gradients[i] = plan->row[i].g_address;
    }
    return result;
}

EXPORT int64_t adabelief_row_bytes(void) { return sizeof(Row); }

/* Notes a parameter and its state's tensors (0 where there is none), and the dict that holds these. `items` are the bytes
 * of an element of each. Needs room for 2 dim numbers in `numbers`. Returns 0 where it cannot. */
EXPORT _Bool adabelief_note(const Api *api, Row *row, Object *entry, Object *const *objects, const int32_t *items,
                          int64_t elements, int is_complex, int64_t *numbers) {
    Shape shape;
    row->entry = entry, row->elements = elements, row->is_complex = is_complex, row->g_address = 0;
    for (int i = 0; i <= NAMES; i++) {
        row->objects[i] = objects[i];
        if (objects[i] && !look(api, objects[i], &row->places[i], i ? &shape : &row->shape)) return 0;
        row->places[i].item = items[i];
    }
    size_t bytes = (size_t)row->shape.dim * sizeof(int64_t);
    row->shape.sizes = memcpy(numbers, row->shape.sizes, bytes);
    row->shape.strides = memcpy(numbers + row->shape.dim, row->shape.strides, bytes);
    return 1;
}
