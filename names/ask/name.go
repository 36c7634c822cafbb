package ask

import "strings"

const (
	nameMax  = 253 // bytes of a name without its last dot (RFC 1035, 2.3.4)
	labelMax = 63
)

// candidates returns the names that a name may stand for, in the order in which the C library asks for them: those of the Search
// domains first if it has fewer dots than Config.Dots, else last (glibc 2.36, __res_context_search in resolv/res_query.c). They have no
// last dot.
func (a *Asker) candidates(name string) (all []string) {
	a.mu.Lock()
	search, dots := a.search, a.dots
	a.mu.Unlock()
	full := complete(name)
	if strings.HasSuffix(name, ".") {
		search = nil
	}
	asItIs := strings.Count(full, ".") >= dots
	if asItIs && valid(full) {
		all = append(all, full)
	}
	for _, domain := range search {
		if candidate := full + "." + domain; valid(candidate) {
			all = append(all, candidate)
		}
	}
	if !asItIs && valid(full) {
		all = append(all, full)
	}
	return all
}

// complete returns a name in lower case and without its last dot.
func complete(name string) string { return Lower(strings.TrimSuffix(name, ".")) }

// Lower returns a name in lower case, as name servers compare (RFC 4343). strings.ToLower changes more than the letters of ASCII.
func Lower(name string) string {
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			b := []byte(name)
			for i, c := range b {
				if 'A' <= c && c <= 'Z' {
					b[i] = c | 0x20
				}
			}
			return string(b)
		}
	}
	return name
}

// valid reports whether a name without its last dot is one that the C library accepts in answers (glibc 2.36, res_hnok in
// resolv/res-name-checking.c).
func valid(name string) bool {
	if name == "" || len(name) > nameMax || name[0] == '-' {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > labelMax {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
