package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf16"
	"unicode/utf8"

	"vifproxy/control"
)

// print shows VMs as a table, or as a JSON array for scripts.
func print(c *call, vms []control.VM) error {
	var text []byte
	var err error
	if c.json {
		text, err = array(vms)
	} else {
		text = table(vms)
	}
	if err == nil {
		_, err = c.stdout.Write(text)
	}
	return err
}

func table(vms []control.VM) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tIP\tINTERFACE\tPID\tPORT\tSTATE\tSINCE\tRESTARTS\tEGRESS-REFUSED\tCONFINED\tERROR")
	for _, vm := range vms {
		since := ""
		if !vm.Since.IsZero() {
			since = moment(vm.Since)
		}
		fmt.Fprintln(w, strings.Join([]string{
			cell(vm.Name), cell(vm.IP), cell(strings.Join(vm.Interfaces, ",")),
			number(vm.PID), number(vm.Port), cell(vm.State),
			cell(since), strconv.Itoa(vm.Restarts), strconv.FormatUint(vm.EgressRefused, 10), confined(vm), cell(remark(vm)),
		}, "\t"))
	}
	w.Flush() // to memory
	return b.Bytes()
}

// remark returns what is wrong with a VM, or looks so: a black list lets a VM reach nearly everything, and a person may
// have stopped it long ago.
func remark(vm control.VM) string {
	var all []string
	if vm.StoppedBy != "" {
		all = append(all, "stopped by "+vm.StoppedBy+": vifproxyctl start "+vm.Name)
	}
	if vm.List == control.Black {
		all = append(all, "black list: it reaches all hosts but those in its rule file")
	}
	if vm.Error != "" {
		all = append(all, vm.Error)
	}
	return strings.Join(all, "; ")
}

// confined says whether all mechanisms keep a proxy in.
func confined(vm control.VM) string {
	switch {
	case vm.Confinement == nil:
		return cell("")
	case len(vm.Confinement.Missing) > 0:
		return "partly"
	}
	return "fully"
}

func cell(s string) string {
	if s == "" {
		return "--"
	}
	return safe(s)
}

func number(n int) string {
	if n == 0 {
		return "--"
	}
	return strconv.Itoa(n)
}

// safe quotes what would not stay on its line, or would make a terminal do something: file names and error
// texts can hold any byte.
func safe(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) {
		return strconv.Quote(s)
	}
	return s
}

// unprintable is also true for what turns the direction of writing, and for every space but the plain one.
func unprintable(r rune) bool { return !strconv.IsPrint(r) }

func array[T any](rows []T) ([]byte, error) {
	if rows == nil {
		rows = []T{}
	}
	return document(rows)
}

// document is a whole output in JSON.
func document(v any) ([]byte, error) { return encode(v, "  ") }

// encode makes JSON in which everything that a terminal might act on is escaped. encoding/json escapes C0
// controls only.
func encode(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	var safe strings.Builder
	for _, r := range b.String() {
		if r == '\n' || !unprintable(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) { // RFC 8259 section 7: beyond the BMP a surrogate pair
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	return []byte(safe.String()), nil
}
