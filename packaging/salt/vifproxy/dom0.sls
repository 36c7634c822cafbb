{#-
Makes a netvm that runs vifproxy, and puts the AppVMs of the pillar behind it.

Before: install the package vifproxy in a template, enable the user directories of Salt (`qubesctl state.sls
qubes.user-dirs`), copy the directory vifproxy to /srv/user_salt, pillar/vifproxy to /srv/user_pillar, and edit the
pillar. Then, in dom0:

  sudo qubesctl top.enable vifproxy
  sudo qubesctl top.enable vifproxy pillar=True
  sudo qubesctl --targets=sys-vifproxy state.apply

The netvm's name is here and in the two files init.top. The AppVMs must exist. The formula sets their netvm, their address, which
their rule file has in its name, and the first rule of their firewall. That rule drops everything that passes the netvm, DNS and
ICMP included. Connections to the proxy do not pass the netvm. `qvm-firewall NAME del --rule-no 0` removes the rule.
-#}
{%- set config = pillar['vifproxy'] -%}

vifproxy-netvm:
  qvm.vm:
    - name: sys-vifproxy
    - present:
      - template: {{ config.template }}
      - label: {{ config.label }}
    - prefs:
      - template: {{ config.template }}
      - label: {{ config.label }}
      - netvm: {{ config.upstream }}
      - provides-network: true
      - autostart: true
      - include-in-backups: true
    - service:
      - enable:
        - vifproxy
{% for name, appvm in config.appvms.items() %}
vifproxy-{{ name }}-netvm:
  qvm.prefs:
    - name: {{ name }}
    - netvm: sys-vifproxy
    - require:
      - qvm: vifproxy-netvm
      - cmd: vifproxy-{{ name }}-firewall

# qvm.prefs knows nothing of addresses.
vifproxy-{{ name }}-ip:
  cmd.run:
    - name: qvm-prefs -- {{ name }} ip {{ appvm.ip }}
    - unless: test "$(qvm-prefs -- {{ name }} ip)" = {{ appvm.ip }}

vifproxy-{{ name }}-firewall:
  cmd.run:
    - name: qvm-firewall {{ name }} add --before 0 drop
    - unless: qvm-firewall --raw {{ name }} list | head -n 1 | grep -qx action=drop
{% endfor %}
