package complete

import (
	"fmt"
	"slices"
	"strings"

	"vifproxy/netwatch"
	"vifproxy/rules"
)

// ForTheFirst says how to make the first rule file of a VM, by which it reaches hosts. The firewall VM does not know the names of AppVMs,
// so a person has to say which one is meant, even if only one is possible.
func ForTheFirst(vm string, hosts []string, without []netwatch.AppVM) string {
	command := func(addr string) string {
		return fmt.Sprintf("`vifproxyctl allow %s.%s %s`", vm, addr, strings.ReplaceAll(strings.Join(hosts, " "), "*", `\*`))
	}
	if len(without) == 1 {
		return fmt.Sprintf("connected without one is %s, on %s: if that is %s, %s", without[0].Addr, strings.Join(without[0].Vifs, ", "),
			vm, command(without[0].Addr.String()))
	}
	text := "for a first one name it with its address: " + command("IP")
	between := "; connected without one: "
	for _, other := range without {
		text += fmt.Sprintf("%s%s on %s", between, other.Addr, strings.Join(other.Vifs, ", "))
		between = ", "
	}
	return text
}

// ConnectedWithout returns the AppVMs that are connected and have no rule file.
func ConnectedWithout(set rules.Set) []netwatch.AppVM {
	links, err := netwatch.Read()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(links, func(vm netwatch.AppVM) bool {
		return slices.ContainsFunc(set.Files, func(f rules.File) bool { return f.Addr == vm.Addr }) ||
			slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == vm.Addr })
	})
}
