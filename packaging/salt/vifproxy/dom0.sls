{#-
Makes a netvm that runs vifproxy, puts the AppVMs of the pillar behind it, and gives each its list. All of it is kept in dom0.

Before: make the packages (`make package`), enable the user directories of Salt (`qubesctl state.sls qubes.user-dirs`), copy the
directory vifproxy to /srv/user_salt (its link as a file), and the packages to vifproxy/packages there, as vifproxy.deb and
vifproxy-client.deb or .rpm. Copy pillar/vifproxy to /srv/user_pillar, and edit the pillar. The template's name is there and in init.top.
Then, in dom0:

  sudo qubesctl top.enable vifproxy
  sudo qubesctl top.enable vifproxy pillar=True
  sudo qubesctl --targets=debian-13-xfce state.apply

This applies the states of dom0 and of the template. The AppVMs must exist. A change of the pillar is in force after
`sudo qubesctl state.apply`, without a restart. The first rule of an AppVM's firewall drops all that passes the netvm, DNS and ICMP
included; connections to the proxy do not pass it. vifproxy.removed takes all of it away.
-#}
{%- from 'vifproxy/names.jinja' import feature -%}
{%- set config = pillar['vifproxy'] -%}
{%- set policy %}{% include 'vifproxy/30-vifproxy.policy' %}{% endset -%}

vifproxy-netvm:
  qvm.vm:
    - name: {{ config.netvm }}
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
{%- if config.settings_are_lists %}
        - vifproxy-firewall
{%- endif %}

# A list changes in the running netvm.
vifproxy-lists:
  qvm.features:
    - name: {{ config.netvm }}
    - set:
{%- for name, appvm in config.appvms.items() %}
      - {{ feature(name, appvm.ip) }}: {{ appvm.list | join(' ') | tojson }}
{%- endfor %}
    - require:
      - qvm: vifproxy-netvm
{%- if config.ask %}

# AppVMs may see what is refused to them, and have dom0 ask whether to allow it.
vifproxy-policy:
  file.managed:
    - name: /etc/qubes/policy.d/30-vifproxy.policy
    - contents: {{ policy | replace('sys-firewall', config.netvm) | tojson }}
    - user: root
    - group: qubes
    - mode: '0664'
{%- endif %}
{% for name, appvm in config.appvms.items() %}
vifproxy-{{ name }}-netvm:
  qvm.prefs:
    - name: {{ name }}
    - netvm: {{ config.netvm }}
    - require:
      - qvm: vifproxy-lists
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
