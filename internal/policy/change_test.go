package policy_test

import (
	"context"
	"testing"

	"vifproxy/internal/policy/policytest"
)

// A host that a change names is permitted by one of the policies alone, as a real tinyproxy says where lines are not exact.
func TestChangesNameHostsThatChange(t *testing.T) {
	for _, directives := range []string{"FilterDefaultDeny Yes", "FilterDefaultDeny No", "FilterDefaultDeny Yes\nFilterType fnmatch"} {
		old := policytest.Of(t, loopback, []string{"#: format domains", "bank.example", "*.shop.example", "a.cdn.example"}, directives)
		now := policytest.Of(t, loopback, []string{"#: format domains", "*.bank.example", "www.shop.example", "*.cdn.example"}, directives)
		changes := now.ChangesFrom(old)
		if len(changes) != 6 {
			t.Errorf("%s: %+v", directives, changes)
		}
		for _, c := range changes {
			covered := c.Text == "www.shop.example" || c.Text == "a.cdn.example"
			if (c.Host == "") != covered || c.Why != "" {
				t.Errorf("%s: %+v", directives, c)
			}
			if c.Host == "" {
				continue
			}
			before, err1 := old.Permits(context.Background(), c.Host)
			after, err2 := now.Permits(context.Background(), c.Host)
			if err1 != nil || err2 != nil || before == after || after != c.Admits {
				t.Errorf("%s: %+v: permitted before %v, after %v, %v, %v", directives, c, before, after, err1, err2)
			}
		}
	}
}
