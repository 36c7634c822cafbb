package tinyproxy

import "testing"

func TestObsoleteDirectivesLeaveTheirLinesBehind(t *testing.T) {
	for text, want := range map[string]string{
		"Port 1\nStartServers 5\nMINSPARESERVERS\t5\nMaxClients 100\n": "Port 1\n#\n#\nMaxClients 100\n",
		"MaxRequestsPerChild 0\nMaxSpareServers 5":                     "#\n#\n",
		"# StartServers 5\nStartServersX 5\n\n":                        "# StartServers 5\nStartServersX 5\n\n",
		"":                                                             "",
	} {
		if got := WithoutObsolete(text); got != want {
			t.Errorf("of %q is left %q, want %q", text, got, want)
		}
	}
}
