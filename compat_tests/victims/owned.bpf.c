/* Programs that hold what kernel functions give and protect: trees, lists and counted objects, locks,
 * saved interrupts, sections, work that runs later, exceptions; each right or wrong in one way. Which
 * is which, the kernel is asked. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define KSYM __attribute__((section(".ksyms")))
#define private(name) SEC(".bss." #name) __attribute__((aligned(8)))
#define __contains(name, node) __attribute__((btf_decl_tag("contains:" #name ":" #node)))

struct bpf_rb_root {
	__u64 opaque[2];
} __attribute__((aligned(8)));
struct bpf_rb_node {
	__u64 opaque[4];
} __attribute__((aligned(8)));
struct bpf_list_head {
	__u64 opaque[2];
} __attribute__((aligned(8)));
struct bpf_list_node {
	__u64 opaque[3];
} __attribute__((aligned(8)));
struct bpf_refcount {
	__u32 opaque[1];
} __attribute__((aligned(4)));
struct bpf_res_spin_lock {
	__u32 val;
};
struct bpf_task_work {
	__u64 opaque;
} __attribute__((aligned(8)));
struct bpf_map {
	int unused;
};
struct task_struct {
	int unused;
};

typedef int (*later_t)(struct bpf_map *map, void *key, void *value);
typedef _Bool (*less_t)(struct bpf_rb_node *a, const struct bpf_rb_node *b);

extern void *bpf_obj_new_impl(__u64 type, void *meta) KSYM;
extern void bpf_obj_drop_impl(void *object, void *meta) KSYM;
extern void *bpf_refcount_acquire_impl(void *object, void *meta) KSYM;
extern int bpf_list_push_front_impl(struct bpf_list_head *head, struct bpf_list_node *node, void *meta,
				    __u64 off) KSYM;
extern struct bpf_rb_node *bpf_rbtree_remove(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern int bpf_rbtree_add_impl(struct bpf_rb_root *root, struct bpf_rb_node *node, less_t less,
			       void *meta, __u64 off) KSYM;
extern struct bpf_rb_node *bpf_rbtree_first(struct bpf_rb_root *root) KSYM;
extern struct bpf_rb_node *bpf_rbtree_root(struct bpf_rb_root *root) KSYM;
extern struct bpf_rb_node *bpf_rbtree_left(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern struct bpf_rb_node *bpf_rbtree_right(struct bpf_rb_root *root, struct bpf_rb_node *node) KSYM;
extern void bpf_local_irq_save(unsigned long *flags) KSYM;
extern void bpf_local_irq_restore(unsigned long *flags) KSYM;
extern int bpf_res_spin_lock(struct bpf_res_spin_lock *lock) KSYM;
extern void bpf_res_spin_unlock(struct bpf_res_spin_lock *lock) KSYM;
extern int bpf_res_spin_lock_irqsave(struct bpf_res_spin_lock *lock, unsigned long *flags) KSYM;
extern void bpf_res_spin_unlock_irqrestore(struct bpf_res_spin_lock *lock, unsigned long *flags) KSYM;
extern void bpf_rcu_read_lock(void) KSYM;
extern void bpf_rcu_read_unlock(void) KSYM;
extern void bpf_preempt_disable(void) KSYM;
extern void bpf_preempt_enable(void) KSYM;
extern void bpf_throw(__u64 cookie) KSYM;
extern struct task_struct *bpf_task_from_pid(int pid) KSYM;
extern void bpf_task_release(struct task_struct *p) KSYM;
extern int bpf_task_work_schedule_signal_impl(struct task_struct *task, struct bpf_task_work *work,
					      void *map, later_t later, void *aux) KSYM;
extern int bpf_copy_from_user_str(void *dst, __u32 size, const void *from, __u64 flags) KSYM;

#define bpf_obj_new(type) ((type *)bpf_obj_new_impl(__builtin_btf_type_id(*(type *)0, 0), 0))

struct thing {
	struct bpf_rb_node rb;
	struct bpf_refcount ref;
	struct bpf_list_node l;
	__u64 key;
};
struct plain {
	struct bpf_rb_node rb;
	__u64 key;
};
private(A) struct bpf_spin_lock lock;
private(A) struct bpf_rb_root root __contains(thing, rb);
private(A) struct bpf_list_head head __contains(thing, l);
private(B) struct bpf_res_spin_lock rlock;
private(B) struct bpf_rb_root root2 __contains(plain, rb);
private(C) struct bpf_res_spin_lock rlock2;
struct tw {
	struct bpf_task_work tw;
	__u64 x;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct tw);
} twmap SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct tw);
} twmap2 SEC(".maps");
__u64 out;
volatile int in;
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
SEC("tc") int res_irq(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_res_spin_unlock_irqrestore(&rlock, &f);
	return 0;
}
SEC("tc") int res_irq_two(void *ctx)
{
	unsigned long f, g;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	if (bpf_res_spin_lock_irqsave(&rlock2, &g)) {
		bpf_res_spin_unlock_irqrestore(&rlock, &f);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&rlock2, &g);
	bpf_res_spin_unlock_irqrestore(&rlock, &f);
	return 0;
}
SEC("tc") int res_irq_two_bad(void *ctx)
{
	unsigned long f, g;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	if (bpf_res_spin_lock_irqsave(&rlock2, &g)) {
		bpf_res_spin_unlock_irqrestore(&rlock, &f);
		return 0;
	}
	bpf_res_spin_unlock_irqrestore(&rlock2, &f);
	bpf_res_spin_unlock_irqrestore(&rlock, &g);
	return 0;
}
SEC("tc") int res_mixed(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_res_spin_unlock(&rlock);
	bpf_local_irq_restore(&f);
	return 0;
}
SEC("tc") int res_irq_class(void *ctx)
{
	unsigned long f;
	if (bpf_res_spin_lock_irqsave(&rlock, &f))
		return 0;
	bpf_local_irq_restore(&f);
	return 0;
}
SEC("tc") int res_and_spin(void *ctx)
{
	bpf_spin_lock(&lock);
	if (!bpf_res_spin_lock(&rlock))
		bpf_res_spin_unlock(&rlock);
	bpf_spin_unlock(&lock);
	return 0;
}
SEC("tc") int spin_in_res(void *ctx)
{
	if (bpf_res_spin_lock(&rlock))
		return 0;
	bpf_spin_lock(&lock);
	bpf_spin_unlock(&lock);
	bpf_res_spin_unlock(&rlock);
	return 0;
}
static __noinline void save_in(unsigned long *f)
{
	bpf_local_irq_save(f);
}
static __noinline void restore_in(unsigned long *f)
{
	bpf_local_irq_restore(f);
}
SEC("tc") int irq_sub(void *ctx)
{
	unsigned long f;
	save_in(&f);
	restore_in(&f);
	return 0;
}
SEC("tc") int irq_sub_left(void *ctx)
{
	unsigned long f;
	save_in(&f);
	return 0;
}
static __noinline int save_own(void)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	return 1;
}
SEC("tc") int irq_sub_own(void *ctx)
{
	return save_own();
}
static __noinline int rcu_open(void)
{
	bpf_rcu_read_lock();
	return in;
}
static __noinline int rcu_close(void)
{
	bpf_rcu_read_unlock();
	return in;
}
SEC("tc") int rcu_subs(void *ctx)
{
	rcu_open();
	rcu_close();
	return 0;
}
SEC("tc") int rcu_sub_left(void *ctx)
{
	rcu_open();
	return 0;
}
__noinline int rcu_global(int x)
{
	bpf_rcu_read_lock();
	return x;
}
SEC("tc") int rcu_in_global(void *ctx)
{
	return rcu_global(in);
}
__noinline int plain_global(int x)
{
	return x + in;
}
SEC("tc") int global_under_rcu(void *ctx)
{
	bpf_rcu_read_lock();
	int r = plain_global(3);
	bpf_rcu_read_unlock();
	return r;
}
SEC("tc") int global_under_irq(void *ctx)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	int r = plain_global(3);
	bpf_local_irq_restore(&f);
	return r;
}
SEC("tc") int global_under_lock(void *ctx)
{
	bpf_spin_lock(&lock);
	int r = plain_global(3);
	bpf_spin_unlock(&lock);
	return r;
}
__noinline int sleepy_global(__u64 p)
{
	char b[8];
	return bpf_copy_from_user_str(b, 8, (void *)p, 0);
}
SEC("syscall") int sleepy(void *ctx)
{
	return sleepy_global(in);
}
SEC("syscall") int sleepy_preempt(void *ctx)
{
	bpf_preempt_disable();
	int r = sleepy_global(in);
	bpf_preempt_enable();
	return r;
}
static int cb_irq(__u32 i, void *p)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	bpf_local_irq_restore(&f);
	return 0;
}
static int cb_irq_left(__u32 i, void *p)
{
	unsigned long f;
	bpf_local_irq_save(&f);
	return 0;
}
static int cb_rcu_left(__u32 i, void *p)
{
	bpf_rcu_read_lock();
	return 0;
}
static int cb_preempt_left(__u32 i, void *p)
{
	bpf_preempt_disable();
	return 0;
}
static int cb_task_left(__u32 i, void *p)
{
	bpf_task_from_pid(i);
	return 0;
}
static int cb_lock_left(__u32 i, void *p)
{
	bpf_spin_lock(&lock);
	return 0;
}
SEC("tc") int loop_irq(void *ctx)
{
	bpf_loop(in, cb_irq, 0, 0);
	return 0;
}
SEC("tc") int loop_irq_left(void *ctx)
{
	bpf_loop(in, cb_irq_left, 0, 0);
	return 0;
}
SEC("tc") int loop_rcu_left(void *ctx)
{
	bpf_loop(in, cb_rcu_left, 0, 0);
	return 0;
}
SEC("tc") int loop_preempt_left(void *ctx)
{
	bpf_loop(in, cb_preempt_left, 0, 0);
	return 0;
}
SEC("tc") int loop_task_left(void *ctx)
{
	bpf_loop(in, cb_task_left, 0, 0);
	return 0;
}
SEC("tc") int loop_lock_left(void *ctx)
{
	bpf_loop(in, cb_lock_left, 0, 0);
	return 0;
}
static int tw_cb(struct bpf_map *map, void *key, void *value)
{
	struct tw *t = value;
	t->x++;
	return 77;
}
static int tw_cb_sleep(struct bpf_map *map, void *key, void *value)
{
	char b[8];
	bpf_copy_from_user_str(b, 8, 0, 0);
	return 0;
}
#define TW(cb, m, v) \
	({ \
		int k = 0; \
		struct task_struct *t = bpf_task_from_pid(1); \
		if (!t) \
			return 0; \
		struct tw *w = bpf_map_lookup_elem(&v, &k); \
		if (w) \
			bpf_task_work_schedule_signal_impl(t, &w->tw, &m, cb, 0); \
		bpf_task_release(t); \
	})
SEC("syscall") int tw_ok(void *ctx)
{
	TW(tw_cb, twmap, twmap);
	return 0;
}
SEC("perf_event") int tw_perf(void *ctx)
{
	TW(tw_cb_sleep, twmap2, twmap2);
	return 0;
}
SEC("syscall") int tw_wrong_map(void *ctx)
{
	TW(tw_cb, twmap2, twmap);
	return 0;
}
SEC("syscall") int tw_null_task(void *ctx)
{
	int k = 0;
	struct tw *w = bpf_map_lookup_elem(&twmap, &k);
	if (w)
		bpf_task_work_schedule_signal_impl(0, &w->tw, &twmap, tw_cb, 0);
	return 0;
}
SEC("syscall") int tw_touch(void *ctx)
{
	int k = 0;
	struct tw *w = bpf_map_lookup_elem(&twmap, &k);
	if (w)
		*(__u64 *)w = 1;
	return 0;
}
SEC("syscall") int tw_no_cb(void *ctx)
{
	TW((void *)(long)in, twmap, twmap);
	return 0;
}
static __noinline int thrower(int x)
{
	if (x > 3)
		bpf_throw(x);
	return x;
}
SEC("tc") int throws(void *ctx)
{
	return thrower(in);
}
SEC("tc") int throws_held(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing);
	if (!n)
		return 0;
	thrower(in);
	bpf_obj_drop_impl(n, 0);
	return 0;
}
SEC("tc") int throws_locked(void *ctx)
{
	bpf_spin_lock(&lock);
	thrower(in);
	bpf_spin_unlock(&lock);
	return 0;
}
__noinline int thrower_g(int x)
{
	if (x > 3)
		bpf_throw(x);
	return x;
}
SEC("tc") int throws_g_held(void *ctx)
{
	struct thing *n = bpf_obj_new(struct thing);
	if (!n)
		return 0;
	thrower_g(in);
	bpf_obj_drop_impl(n, 0);
	return 0;
}
SEC("cgroup_skb/ingress") int throws_range(void *ctx)
{
	bpf_throw(7);
	return 1;
}
SEC("cgroup_skb/ingress") int throws_in_range(void *ctx)
{
	bpf_throw(1);
	return 1;
}
char _license[] SEC("license") = "GPL";
