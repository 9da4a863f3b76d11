/* Programs that keep objects in trees and lists, each right or wrong in one way. Which is which, the
 * kernel is asked. */
#include "owned.h"

private(A) struct bpf_spin_lock lock;
private(A) struct bpf_rb_root root __contains(thing, rb);
private(A) struct bpf_list_head head __contains(thing, l);
private(B) struct bpf_res_spin_lock rlock;
private(B) struct bpf_rb_root root2 __contains(plain, rb);

static _Bool less(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct thing, rb)->key < container_of(b, struct thing, rb)->key;
}
static _Bool less2(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	return container_of(a, struct plain, rb)->key < container_of(b, struct plain, rb)->key;
}
static _Bool less_out(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	out++;
	return container_of(a, struct thing, rb)->key < 3;
}
static _Bool less_bad(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_rbtree_first(&root);
	return 0;
}
static _Bool less_bad2(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_spin_unlock(&lock);
	return 0;
}
static _Bool less_bad3(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	struct bpf_rb_node *n = bpf_rbtree_remove(&root, a);
	return n;
}
static _Bool less_rcu(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return 0;
}
static _Bool less_throw(struct bpf_rb_node *a, const struct bpf_rb_node *b)
{
	bpf_throw(1);
	return 0;
}
#define ADD(cb) \
	({ \
		struct thing *n = bpf_obj_new(struct thing); \
		if (!n) \
			return 0; \
		n->key = in; \
		bpf_spin_lock(&lock); \
		bpf_rbtree_add_impl(&root, &n->rb, cb, 0, 0); \
		bpf_spin_unlock(&lock); \
	})
SEC("tc") int add(void *ctx)
{
	ADD(less);
	return 0;
}
SEC("tc") int add_out(void *ctx)
{
	ADD(less_out);
	return 0;
}
SEC("tc") int add_bad(void *ctx)
{
	ADD(less_bad);
	return 0;
}
SEC("tc") int add_bad2(void *ctx)
{
	ADD(less_bad2);
	return 0;
}
SEC("tc") int add_bad3(void *ctx)
{
	ADD(less_bad3);
	return 0;
}
SEC("tc") int add_rcu(void *ctx)
{
	ADD(less_rcu);
	return 0;
}
SEC("tc") int add_throw(void *ctx)
{
	ADD(less_throw);
	return 0;
}
SEC("tc") int walk(void *ctx)
{
	struct bpf_rb_node *n;
	struct thing *o = 0;
	int i;
	bpf_spin_lock(&lock);
	n = bpf_rbtree_root(&root);
	for (i = 0; i < 8 && n; i++) {
		o = container_of(n, struct thing, rb);
		if (o->key == in)
			break;
		n = o->key < in ? bpf_rbtree_right(&root, n) : bpf_rbtree_left(&root, n);
	}
	if (n)
		out = container_of(n, struct thing, rb)->key;
	bpf_spin_unlock(&lock);
	return 0;
}
SEC("tc") int walk_unlocked(void *ctx)
{
	struct bpf_rb_node *n;
	bpf_spin_lock(&lock);
	n = bpf_rbtree_root(&root);
	bpf_spin_unlock(&lock);
	if (n)
		out = container_of(n, struct thing, rb)->key;
	return 0;
}
SEC("tc") int both_owners(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing), *m;
	if (!n)
		return 0;
	m = bpf_refcount_acquire_impl(n, 0);
	bpf_spin_lock(&lock);
	bpf_rbtree_add_impl(&root, &n->rb, less, 0, 0);
	bpf_list_push_front_impl(&head, &m->l, 0, 0);
	out = n->key + m->key;
	bpf_spin_unlock(&lock);
	return 0;
}
SEC("tc") int refcount_after(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing), *m;
	if (!n)
		return 0;
	bpf_spin_lock(&lock);
	bpf_rbtree_add_impl(&root, &n->rb, less, 0, 0);
	m = bpf_refcount_acquire_impl(n, 0);
	bpf_spin_unlock(&lock);
	if (!m)
		return 0;
	out = m->key;
	bpf_obj_drop_impl(m, 0);
	return 0;
}
SEC("tc") int refcount_nodrop(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing), *m;
	if (!n)
		return 0;
	bpf_spin_lock(&lock);
	bpf_rbtree_add_impl(&root, &n->rb, less, 0, 0);
	m = bpf_refcount_acquire_impl(n, 0);
	bpf_spin_unlock(&lock);
	return m == n;
}
SEC("tc") int refcount_nocheck(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing), *m;
	if (!n)
		return 0;
	bpf_spin_lock(&lock);
	bpf_rbtree_add_impl(&root, &n->rb, less, 0, 0);
	m = bpf_refcount_acquire_impl(n, 0);
	bpf_spin_unlock(&lock);
	out = m->key;
	bpf_obj_drop_impl(m, 0);
	return 0;
}
SEC("tc") int res_tree(void *ctx)
{
	struct plain *n = bpf_obj_new(struct plain);
	if (!n)
		return 0;
	if (bpf_res_spin_lock(&rlock)) {
		bpf_obj_drop_impl(n, 0);
		return 0;
	}
	bpf_rbtree_add_impl(&root2, &n->rb, less2, 0, 0);
	bpf_res_spin_unlock(&rlock);
	return 0;
}
SEC("tc") int res_tree_leak(void *ctx)
{
	struct plain *n = bpf_obj_new(struct plain);
	if (!n)
		return 0;
	if (bpf_res_spin_lock(&rlock))
		return 0;
	bpf_rbtree_add_impl(&root2, &n->rb, less2, 0, 0);
	bpf_res_spin_unlock(&rlock);
	return 0;
}
