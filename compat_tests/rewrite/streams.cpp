// Streams, strings, regular expressions, containers, locales, threads and exceptions: a round a line.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <deque>
#include <iomanip>
#include <iostream>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <vector>

struct Odd : std::runtime_error {
	using std::runtime_error::runtime_error;
};

static int deep(int n, std::ostream &out)
{
	std::string kept(n, 'k');
	if (!n)
		throw Odd("end");
	struct Leaves {
		std::ostream &o;
		~Leaves()
		{
			o << '.';
		}
	} leaves{ out };
	return deep(n - 1, out) + (int)kept.size();
}

static std::string work()
{
	std::ostringstream out;
	std::mt19937 rng(5);
	std::map<std::string, int> words;
	std::unordered_map<int, std::string> back;
	for (int i = 0; i < 300; i++) {
		std::string w = "w" + std::to_string(rng() % 50);
		words[w] += i;
		back.emplace(i, w + w.substr(0, 1));
	}
	for (auto &[w, n] : words)
		out << std::setw(6) << std::left << w << std::hex << std::showbase << n << std::dec
		    << '|';
	out << std::setprecision(12) << std::fixed << 3.14159265358979 << std::scientific << 1e-7L
	    << std::boolalpha << true;
	std::regex re("w(\\d)(\\d)");
	std::string text = out.str();
	out << std::regex_replace(text, re, "$2$1w").size()
	    << std::distance(std::sregex_iterator(text.begin(), text.end(), re),
			     std::sregex_iterator());
	std::istringstream in("12 0x1f 3.5 word 99999999999999999999 true");
	int a = 0;
	double d = 0;
	std::string s;
	in >> a >> std::hex >> a >> d >> s >> a;
	out << a << d << s << in.fail();
	for (int depth : { 3, 20 })
		try {
			deep(depth, out);
		} catch (const std::exception &e) {
			out << e.what();
			try {
				throw;
			} catch (Odd &) {
				out << "odd";
			}
		}
	try {
		std::vector<int>().at(4);
	} catch (const std::out_of_range &e) {
		out << e.what();
	}
	try {
		throw std::system_error(std::make_error_code(std::errc::io_error));
	} catch (const std::system_error &e) {
		out << e.code() << e.what();
	}
	std::list<int> l(40);
	std::iota(l.begin(), l.end(), -7);
	l.reverse();
	l.sort();
	l.remove_if([](int x) { return x % 3 == 0; });
	std::deque<std::string> q;
	for (int x : l)
		x & 1 ? q.push_back(std::to_string(x)) : q.push_front(std::to_string(x * 3));
	std::stable_sort(q.begin(), q.end());
	for (auto &x : q)
		out << x;
	std::set<std::string> set(q.begin(), q.end());
	out << set.count("9") << *set.lower_bound("5");
	std::mutex m;
	long total = 0;
	std::vector<std::thread> threads;
	for (int t = 0; t < 4; t++)
		threads.emplace_back([&, t] {
			std::ostringstream own;
			own << t * 1000;
			std::lock_guard<std::mutex> g(m);
			total += std::stol(own.str());
		});
	for (auto &t : threads)
		t.join();
	std::wstringstream wide;
	wide << L"wide" << 42;
	out << total << wide.str().size()
	    << std::use_facet<std::ctype<char>>(out.getloc()).toupper('q');
	std::tm tm = {};
	tm.tm_year = 124, tm.tm_mday = 9;
	out << std::put_time(&tm, "%Y-%m-%d %H");
	std::size_t h = 1469598103934665603u;
	for (unsigned char c : out.str())
		h = (h ^ c) * 1099511628211u;
	return std::to_string(h);
}

int main()
{
	std::string line;
	while (std::getline(std::cin, line))
		std::cout << work() << std::endl;
}
