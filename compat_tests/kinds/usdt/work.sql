select 41 + 1;
select x from generate_series(1, 50) x order by x desc limit 3;
select nothing;
checkpoint;
create temp table t(a int, b text);
insert into t select i, 'r' || i from generate_series(1, 20) i;
select a, b from t where a > 15 order by b;
update t set b = 'x' where a = 3;
drop table t;
