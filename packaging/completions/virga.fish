# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_virga_global_optspecs
    string join \n j/json socket= h/help V/version
end

function __fish_virga_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_virga_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_virga_using_subcommand
    set -l cmd (__fish_virga_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c virga -n "__fish_virga_needs_command" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_needs_command" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_needs_command" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_needs_command" -s V -l version -d 'Print version'
complete -c virga -n "__fish_virga_needs_command" -f -a "status" -d 'State of agent and chip, and everything that is punted as a whole, with reasons'
complete -c virga -n "__fish_virga_needs_command" -f -a "link" -d 'Interfaces, and what the chip makes of them'
complete -c virga -n "__fish_virga_needs_command" -f -a "neigh" -d 'Neighbours, and which of them are in the chip'
complete -c virga -n "__fish_virga_needs_command" -f -a "fdb" -d 'Stations of bridges, and which of them are in the chip'
complete -c virga -n "__fish_virga_needs_command" -f -a "vlan" -d 'VLANs of bridges and their ports, and which of them are in the chip'
complete -c virga -n "__fish_virga_needs_command" -f -a "stp" -d 'Bridge ports with their spanning-tree states, and which of them are in the chip'
complete -c virga -n "__fish_virga_needs_command" -f -a "nexthop" -d 'The kernel\'s next-hop objects, and which of them are in the chip'
complete -c virga -n "__fish_virga_needs_command" -f -a "route" -d 'The kernel\'s routes, and what became of each: offloaded, or punted and why'
complete -c virga -n "__fish_virga_needs_command" -f -a "counters" -d 'The chip\'s counters: per port, per trap class, per drop reason'
complete -c virga -n "__fish_virga_needs_command" -f -a "resources" -d 'How full the chip\'s tables are'
complete -c virga -n "__fish_virga_needs_command" -f -a "table" -d 'One table of the chip, raw'
complete -c virga -n "__fish_virga_needs_command" -f -a "check" -d 'Compare kernel, desired and chip afresh; exits 0 only where all agree'
complete -c virga -n "__fish_virga_needs_command" -f -a "settle" -d 'Wait until the chip holds all that the kernel knows'
complete -c virga -n "__fish_virga_needs_command" -f -a "replay" -d 'Run a journal of virgad --record again; exits non-zero at the first output that differs'
complete -c virga -n "__fish_virga_needs_command" -f -a "lab" -d 'A switch with ports and hosts in namespaces of its own, to try things in'
complete -c virga -n "__fish_virga_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand status" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand status" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand status" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand link; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand link; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand neigh; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand neigh; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand fdb; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand fdb; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand vlan; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand vlan; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand stp; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand stp; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -f -a "show" -d 'The objects; of resilient groups how many of the chip\'s buckets each member has'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -f -a "list" -d 'The objects; of resilient groups how many of the chip\'s buckets each member has'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -f -a "bucket" -d 'The chip\'s buckets of resilient groups, one a line'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and not __fish_seen_subcommand_from show list bucket help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from bucket" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from bucket" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from bucket" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from help" -f -a "show" -d 'The objects; of resilient groups how many of the chip\'s buckets each member has'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from help" -f -a "bucket" -d 'The chip\'s buckets of resilient groups, one a line'
complete -c virga -n "__fish_virga_using_subcommand nexthop; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -l vrf -d 'Only the routes of that VRF' -r
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -f -a "list" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand route; and not __fish_seen_subcommand_from show list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from show" -l vrf -d 'Only the routes of that VRF' -r
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from list" -l vrf -d 'Only the routes of that VRF' -r
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from list" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from list" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from help" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand route; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand counters" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand counters" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand counters" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand resources" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand resources" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand resources" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand table; and not __fish_seen_subcommand_from show help" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand table; and not __fish_seen_subcommand_from show help" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand table; and not __fish_seen_subcommand_from show help" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand table; and not __fish_seen_subcommand_from show help" -f -a "show" -d 'Print its entries, one a line'
complete -c virga -n "__fish_virga_using_subcommand table; and not __fish_seen_subcommand_from show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand table; and __fish_seen_subcommand_from show" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand table; and __fish_seen_subcommand_from show" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand table; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand table; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print its entries, one a line'
complete -c virga -n "__fish_virga_using_subcommand table; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand check" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand check" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand check" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand settle" -l timeout -d 'Seconds to wait at most' -r
complete -c virga -n "__fish_virga_using_subcommand settle" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand settle" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand settle" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand replay" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand replay" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand replay" -s h -l help -d 'Print help'
complete -c virga -n "__fish_virga_using_subcommand lab" -l socket -d 'The agent\'s socket' -r -F
complete -c virga -n "__fish_virga_using_subcommand lab" -s j -l json -d 'Print JSON, with the names of ip -j where the same thing has one'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "status" -d 'State of agent and chip, and everything that is punted as a whole, with reasons'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "link" -d 'Interfaces, and what the chip makes of them'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "neigh" -d 'Neighbours, and which of them are in the chip'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "fdb" -d 'Stations of bridges, and which of them are in the chip'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "vlan" -d 'VLANs of bridges and their ports, and which of them are in the chip'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "stp" -d 'Bridge ports with their spanning-tree states, and which of them are in the chip'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "nexthop" -d 'The kernel\'s next-hop objects, and which of them are in the chip'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "route" -d 'The kernel\'s routes, and what became of each: offloaded, or punted and why'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "counters" -d 'The chip\'s counters: per port, per trap class, per drop reason'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "resources" -d 'How full the chip\'s tables are'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "table" -d 'One table of the chip, raw'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "check" -d 'Compare kernel, desired and chip afresh; exits 0 only where all agree'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "settle" -d 'Wait until the chip holds all that the kernel knows'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "replay" -d 'Run a journal of virgad --record again; exits non-zero at the first output that differs'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "lab" -d 'A switch with ports and hosts in namespaces of its own, to try things in'
complete -c virga -n "__fish_virga_using_subcommand help; and not __fish_seen_subcommand_from status link neigh fdb vlan stp nexthop route counters resources table check settle replay lab help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from link" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from neigh" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from fdb" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from vlan" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from stp" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from nexthop" -f -a "show" -d 'The objects; of resilient groups how many of the chip\'s buckets each member has'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from nexthop" -f -a "bucket" -d 'The chip\'s buckets of resilient groups, one a line'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from route" -f -a "show" -d 'The only thing there is to do with it'
complete -c virga -n "__fish_virga_using_subcommand help; and __fish_seen_subcommand_from table" -f -a "show" -d 'Print its entries, one a line'
