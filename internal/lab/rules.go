package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Ruleset says whose packet filter the firewall VM has.
type Ruleset string

// The rulesets of Qubes.
const (
	R42 Ruleset = "r42" // R4.2 and later: nftables
	R41 Ruleset = "r41" // R4.1 and before, and many a plain router: iptables
)

var (
	//go:embed r42.nft
	r42 string
	//go:embed r41.rules
	r41 string
)

// LoadRules loads the firewall VM's own rules, and those that keep the present AppVMs to their addresses. New
// calls it first; a test calls it again after it flushed the rules. With R42 the rules are added to what
// there is, with R41 they replace the tables raw, nat and filter whole, as the real ones do.
func (l *Lab) LoadRules(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var fenced []*vif
	for _, v := range l.vifs {
		if v.done >= Fenced {
			fenced = append(fenced, v)
		}
	}
	slices.SortFunc(fenced, func(a, b *vif) int { return strings.Compare(a.name, b.name) })
	switch l.Ruleset {
	case R42:
		text := r42
		for _, v := range fenced {
			text += fmt.Sprintf("add element ip qubes allowed { %q . %v }\nadd element ip qubes downstream { %v }\n",
				v.name, v.vm.IP, v.vm.IP)
		}
		return l.feed(ctx, text, "nft", "-f", "-")
	case R41:
		text := r41
		for _, v := range fenced {
			text += antispoofRules("-I", v.name, v.vm.IP)
		}
		return l.feed(ctx, text, "iptables-restore")
	}
	return fmt.Errorf("no such ruleset: %q (there are %s and %s)", l.Ruleset, R42, R41)
}

// fence lets an AppVM send from its address through its vif, and nobody else from that address.
func (l *Lab) fence(vif string, ip netip.Addr) error {
	if l.Ruleset == R41 {
		return l.feed(context.Background(), antispoofRules("-I", vif, ip), "iptables-restore", "--noflush")
	}
	err := l.changeElements(l.nft.SetAddElements, vif, ip, true)
	if err != nil {
		return fmt.Errorf("add %s . %v to the sets of table ip qubes: %w", vif, ip, err)
	}
	return nil
}

// unfence takes back what fence did. As in the hotplug script it is no error when the rules are not there:
// the whole ruleset may have been flushed meanwhile.
func (l *Lab) unfence(vif string, ip netip.Addr, last bool) error {
	var err error
	if l.Ruleset == R41 {
		err = l.feed(context.Background(), antispoofRules("-D", vif, ip), "iptables-restore", "--noflush")
	} else {
		err = l.changeElements(l.nft.SetDeleteElements, vif, ip, last)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// changeElements changes set allowed, and with downstream also that set, in one transaction. A storm of a
// thousand attaches needs it: it takes 50 µs where the nft program takes milliseconds. The socket stays open
// because closing one waits for RCU after a deletion, 10 ms (nft_rcv_nl_event in nf_tables_api.c).
func (l *Lab) changeElements(change func(*nftables.Set, []nftables.SetElement) error,
	vif string, ip netip.Addr, downstream bool) error {
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "qubes"}
	pair := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	var name [16]byte
	copy(name[:], vif)
	key := append(name[:], ip.AsSlice()...)
	allowed := &nftables.Set{Table: table, Name: "allowed", KeyType: pair, Concatenation: true}
	if err := change(allowed, []nftables.SetElement{{Key: key}}); err != nil {
		return err
	}
	if downstream {
		set := &nftables.Set{Table: table, Name: "downstream", KeyType: nftables.TypeIPAddr}
		if err := change(set, []nftables.SetElement{{Key: ip.AsSlice()}}); err != nil {
			return err
		}
	}
	return l.nft.Flush()
}

func antispoofRules(verb, vif string, ip netip.Addr) string {
	return fmt.Sprintf("*raw\n"+
		"%s PREROUTING -i %s ! -s %v -j DROP\n"+
		"%s PREROUTING ! -i vif+ -s %v -j DROP\nCOMMIT\n", verb, vif, ip, verb, ip)
}

// feed runs a program in the firewall VM with text on its standard input.
func (l *Lab) feed(ctx context.Context, text, program string, args ...string) error {
	return l.fw.do(func() error {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdin = strings.NewReader(text)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(out.String()))
		}
		return nil
	})
}
